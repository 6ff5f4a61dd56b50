"""IBM's own files of DVS Gesture, on which most published figures are measured.

Each recording holds several gestures, and a table of when each begins and ends; two lists say which
recordings train and which test (A. Amir et al., "A low power, fully event-based gesture recognition
system", CVPR 2017). The copy that tonic fetches is cut into gestures already, rounds times to
milliseconds and leaves out 123 of the 1,464 gestures.
"""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import numpy as np

from ...errors import StbpError

FOLDER = "DvsGesture"
LISTS = ("trials_to_train.txt", "trials_to_test.txt")

CLASSES = [
    "Hand clapping", "Right hand wave", "Left hand wave", "Right arm cw", "Right arm ccw",
    "Left arm cw", "Left arm ccw", "Arm roll", "Air drums", "Air guitar", "Other gestures",
]  # fmt: skip
"""As tonic calls them."""

END = b"#!END-HEADER\r\n"
LONGEST_HEADER = 1 << 16

PACKET = struct.Struct("<HHIIIIII")
"""Kind of events, source, bytes of an event, where its time stands, overflows of time, room for
events, events, valid events."""

TIME = struct.Struct("<I")

POLARITY = 1
"""The kind of packets that hold changes of brightness: 8 bytes each, address and time."""

FIELDS = np.dtype([("x", np.int16), ("y", np.int16), ("p", np.bool_), ("t", np.int64)])


def find(data_dir: Path) -> Path | None:
    """The folder of the archive below `data_dir`, if it is there."""
    place = data_dir / FOLDER
    return place if all((place / name).is_file() for name in LISTS) else None


class Gestures:
    """The gestures of one list, in its order; the interface is that of tonic's data sets.

    Args:
        folder: Where the archive was unpacked.
        part: 0 for training, 1 for the test.

    Attributes:
        data: The recording that each gesture is in.
        targets: Its class, 0 to 10.
        trials: Its number in its recording.
        spans: When it begins and ends, in microseconds.

    Raises:
        StbpError: If a recording or its table is missing, or a table is none.
    """

    classes = CLASSES

    def __init__(self, folder: Path, part: int) -> None:
        self.location_on_system = str(folder)
        self.data: list[str] = []
        self.targets: list[int] = []
        self.trials: list[int] = []
        self.spans: list[tuple[int, int]] = []
        for name in (folder / LISTS[part]).read_text("utf-8", "replace").split():
            recording = folder / Path(name).name
            if not recording.is_file():
                raise StbpError(f"'{folder / LISTS[part]}' names '{name}', which is not there.")
            for trial, (label, span) in enumerate(_table(recording)):
                self.data.append(str(recording))
                self.targets.append(label)
                self.trials.append(trial)
                self.spans.append(span)
        if not self.data:
            raise StbpError(f"'{folder / LISTS[part]}' names no recordings.")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return read_events(Path(self.data[index]), *self.spans[index]), self.targets[index]


def _table(recording: Path) -> list[tuple[int, tuple[int, int]]]:
    """Class and span of every gesture of a recording."""
    file = recording.with_name(f"{recording.stem}_labels.csv")
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            rows = [[int(word) for word in row] for row in list(csv.reader(stream))[1:] if row]
        found = [(label - 1, (start, end)) for label, start, end in rows]
    except OSError as error:
        raise StbpError(f"cannot read '{file}': {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        raise StbpError(f"'{file}' is no table of class, startTime_usec, endTime_usec.") from error
    for label, (start, end) in found:
        if not (0 <= label < len(CLASSES) and 0 <= start < end):
            raise StbpError(f"'{file}' has a gesture {label + 1} from {start} to {end}.")
    return found


def read_events(path: Path, start: int, end: int) -> np.ndarray:
    """The events of an AEDAT 3.1 file from `start` on and before `end`, in microseconds.

    Raises:
        ValueError: If it is no such file, or ends within a packet.
    """
    data = np.memmap(path, np.uint8, "r").data
    offset = bytes(data[:LONGEST_HEADER]).find(END) + len(END)
    if bytes(data[:12]) != b"#!AER-DAT3.1" or offset < len(END):
        raise ValueError("it is no AEDAT 3.1 file")
    found = [np.empty(0, FIELDS)]
    while offset < len(data):
        if offset + PACKET.size > len(data):
            raise ValueError("it ends within a packet")
        kind, _, size, _, overflows, room, count, _ = PACKET.unpack_from(data, offset)
        offset += PACKET.size
        if count > room or offset + size * room > len(data):
            raise ValueError("it ends within a packet")
        if kind == POLARITY and count:
            if size != 8:
                raise ValueError(f"it has events of {size} bytes, not 8")
            first, last = (
                TIME.unpack_from(data, offset + 8 * n + 4)[0] + (overflows << 31)
                for n in (0, count - 1)
            )
            if first < end and last >= start:  # packets are in order of time
                words = np.frombuffer(data, "<u4", 2 * count, offset).reshape(-1, 2)
                found.append(_events(words, overflows, start, end))
        offset += size * room
    return np.concatenate(found)


def _events(words: np.ndarray, overflows: int, start: int, end: int) -> np.ndarray:
    """The valid events of a packet within a span: bits 0 valid, 1 polarity, 2-16 y, 17-31 x."""
    address, time = words[:, 0], words[:, 1].astype(np.int64) + (overflows << 31)
    within = (time >= start) & (time < end) & (address & 1 == 1)
    events, address = np.empty(int(within.sum()), FIELDS), address[within]
    events["x"], events["y"] = address >> 17, address >> 2 & 0x7FFF
    events["p"], events["t"] = address >> 1 & 1, time[within]
    return events
