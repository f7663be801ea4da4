import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.models.memory import NoRoom, Room, is_out_of_memory


def test_a_cpu_without_memory_is_known_from_its_error():
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(told.value)
    assert is_out_of_memory(torch.OutOfMemoryError()) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("sizes differ")) and not is_out_of_memory(None)


class Device:
    """Holds `room` items; each try of it lives until its error is gone."""

    def __init__(self, room: int) -> None:
        self.room, self.held, self.tried = room, 0, []

    def work(self, items):
        self.tried.append(len(items))
        return self._fill(items, _Held(self, len(items)))

    def _fill(self, items, held):
        if self.held > self.room:
            raise torch.OutOfMemoryError
        return [i**2 for i in items]


class _Held:
    def __init__(self, device, count):
        self.device, self.count = device, count
        device.held += count

    def __del__(self):
        self.device.held -= self.count


def test_what_does_not_fit_is_halved_once_and_for_all(capsys):
    device, room = Device(3), Room(8)
    assert room.run(device.work, range(8)) == [i**2 for i in range(8)]
    assert device.tried == [8, 4, 2, 2, 2, 2], "a failed try that is kept alive would fill the memory of the next"
    assert room.run(device.work, range(3)) == [0, 1, 4]
    assert room.most == 2 and device.tried[6:] == [2, 1]
    assert capsys.readouterr().err.count("Out of memory") == 2


def test_one_too_many_is_said_and_other_errors_pass():
    with pytest.raises(NoRoom, match="too little memory for a single image"):
        Room(4).run(Device(0).work, range(2))
    assert issubclass(NoRoom, UserError)
    with pytest.raises(RuntimeError, match="sizes differ"):
        Room(4).run(lambda items: (_ for _ in ()).throw(RuntimeError("sizes differ")), range(2))
    assert Room(4).run(Device(1).work, []) == []
