"""How a GPU is connected to its host, as the system says it."""

from __future__ import annotations

from pathlib import Path

_PCI_DEVICES = Path("/sys/bus/pci/devices")
# GT/s of a lane -> PCIe generation.
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}


def link_of(pci_bus_id: str, is_coherent: bool, devices: Path = _PCI_DEVICES) -> str:
    """ "c2c", "pcie5 x16" or "unknown": part of what a measured model is good for.

    is_coherent: the GPU reads the host's page tables, as only NVLink-C2C lets it. The speed is the
    one that the link can have; what it has now falls while the GPU is idle.
    """
    if is_coherent:
        return "c2c"
    folder = devices / pci_bus_id.lower()
    try:
        speed = (folder / "max_link_speed").read_text().split()[0]
        width = (folder / "current_link_width").read_text().strip()
    except (OSError, IndexError):  # containers may hide it
        return "unknown"
    generation = _GENERATIONS.get(speed)
    return "unknown" if generation is None else f"pcie{generation} x{width}"
