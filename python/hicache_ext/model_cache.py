"""Measured DeviceModels on disk: one JSON file for each device, driver and link."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hicache_ext.calibration import DeviceFacts
from hicache_ext.device_model import CopyEngine, DeviceModel, HostModel

VERSION = 1  # of the file and of what its numbers mean; another one is measured anew
_TABLE = ("entry_bytes", "counts", "speeds")
logger = logging.getLogger("hicache_ext")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/hicache_ext, by default ~/.cache/hicache_ext."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and ignored.
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "hicache_ext"


def cache_file(facts: DeviceFacts) -> Path:
    """Where the model of this device with this driver and link is kept."""
    name = "-".join((facts.uuid, facts.driver, facts.link))
    return cache_folder() / f"device-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.json"


def load_model(facts: DeviceFacts) -> DeviceModel | None:
    """The model that was saved for these facts; None where there is none, or none that is whole."""
    try:
        text = cache_file(facts).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("measuring the device again: %s: %s", cache_file(facts), error)
        return None
    try:
        saved = json.loads(text)
        if saved["version"] != VERSION or saved["facts"] != asdict(facts):
            return None
        return _model_of(saved["model"])
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("measuring the device again: %s is damaged: %r", cache_file(facts), error)
        return None


def save_model(facts: DeviceFacts, model: DeviceModel) -> None:
    """Keeps the model for other processes; where that fails, a warning says so and they measure."""
    path = cache_file(facts)
    text = json.dumps(
        {"version": VERSION, "facts": asdict(facts), "model": asdict(model)}, indent=1
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Ranks may save at the same time: each its own file, and the last rename wins.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            try:
                file.write(text)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        logger.warning("the model of the device is not kept: %s: %s", path, error)


def _model_of(saved: dict[str, Any]) -> DeviceModel:
    """DeviceModel(**saved); its classes check every number."""
    engines = {
        name: CopyEngine(**saved[name] | {key: _tuples(saved[name][key]) for key in _TABLE})
        for name in ("to_device", "to_host", "on_device")
    }
    return DeviceModel(**saved | engines | {"host": HostModel(**saved["host"])})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
