"""The counters of one flow of numbered packets, in guest memory.

A flow has three sequence numbers: the next to send, one above the highest received, and the floor,
below which the driver waits for no packet any more. The packets from the higher of the last two up
to the first are in flight. A gap is a loss until the packet arrives after all; only a number that
was received before is a duplicate, according to a bitmap of the last 64. A packet that is received
late is reordered only if it came on the pair of the highest one: virtio gives no order between
queues, and a device may deliver a flow to several pairs.
"""

from __future__ import annotations

#: Words of a flow (u64).
NEXT, HIGHEST, FLOOR, SEEN, RECEIVED, DUPLICATED, REORDERED, CORRUPTED, LAST_NS, PAIR = range(10)
WORDS = 10
_WINDOW = 64
_MASK64 = (1 << 64) - 1


class Flow:
    """The sequence numbers of one queue pair.

    Args:
        words: `WORDS` u64 of guest memory.
    """

    __slots__ = ("words",)

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def outstanding(self) -> int:
        """Packets in flight that the driver waits for."""
        words = self.words
        return words[NEXT] - max(words[HIGHEST], words[FLOOR])

    def arrived(self, sequence: int, pair: int) -> None:
        """A packet of this flow was received on that pair (`PAIR` is that of the highest one)."""
        words = self.words
        behind = words[HIGHEST] - 1 - sequence
        if behind < 0:
            if sequence >= words[NEXT]:
                words[CORRUPTED] += 1  # it was never sent
                return
            words[SEEN] = (words[SEEN] << -behind | 1) & _MASK64
            words[HIGHEST] = sequence + 1
            words[PAIR] = pair
            words[RECEIVED] += 1
        elif behind >= _WINDOW or words[SEEN] >> behind & 1:
            words[DUPLICATED] += 1
        else:
            words[SEEN] |= 1 << behind
            words[RECEIVED] += 1
            words[REORDERED] += pair == words[PAIR]

    def give_up(self) -> None:
        """Wait no longer for the packets in flight; one that arrives later still counts."""
        self.words[FLOOR] = self.words[NEXT]

    def lost(self) -> int:
        """Packets that were not received and are no longer waited for."""
        words = self.words
        return max(words[HIGHEST], words[FLOOR]) - words[RECEIVED]
