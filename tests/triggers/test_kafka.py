"""How far a Kafka partition is: what a commit says, and what the next consumer reads from it."""

from __future__ import annotations

import pytest

from gateway.triggers.sources.kafka import METADATA_MAX, Progress


def handed_out(count: int, start: int = 100) -> Progress:
    return Progress(start + count, start, out=set(range(start, start + count)))


def test_what_is_done_beyond_the_first_that_is_not_is_remembered() -> None:
    progress = handed_out(6)
    progress.finish([100, 102, 103, 105])
    assert progress.committed == 101
    after = Progress.read(progress.committed, progress.metadata())
    assert (after.next, after.tried, after.done) == (101, 106, {102, 103, 105})
    progress.finish([101])
    assert (progress.committed, progress.done) == (104, {105})
    progress.finish([104])
    assert (progress.committed, progress.done) == (106, set())


def test_what_was_done_before_a_crash_is_not_forgotten_until_it_is_read() -> None:
    before = handed_out(3)
    before.finish([101])
    after = Progress.read(before.committed, before.metadata())
    after.out, after.next = {100}, 101  # a read that brought one message
    after.finish([100])
    assert (after.committed, after.done) == (101, {101})


def test_metadata_stays_within_what_servers_take_and_leaves_out_the_newest() -> None:
    progress = handed_out(10_000)
    progress.finish(range(101, 10_100, 2))
    text = progress.metadata()
    assert len(text) <= METADATA_MAX
    kept = Progress.read(progress.committed, text).done
    assert kept and kept == {offset for offset in progress.done if offset <= max(kept)}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "another's",
        "[1]",
        '{"done": 3, "tried": 1}',
        '{"done": [[0]], "tried": 1}',
        '{"done": [], "tried": 1e999}',
        '{"done": [], "tried": -1}',
        '{"done": [[-2000000000000, 1]], "tried": 2}',
        '{"done": [[0, 999999999999]], "tried": 1}',
        '{"done": [[3, 1]], "tried": 9}',
        '{"done": [[0, 5], [4, 6]], "tried": 9}',
        '{"done": [], "tried": 1' + "0" * 3000 + "}",
        '{"done": [' + "[0, 1]," * 1000 + '[0, 1]], "tried": 9}',
    ],
)
def test_anothers_metadata_says_nothing(said: str) -> None:
    assert Progress.read(7, said) == Progress(7, 7)


def test_whatever_a_server_says_few_offsets_are_believed_and_all_others_come_again() -> None:
    progress = Progress.read(7, '{"tried": 1000000000000, "done": [[2, 3], [5, 900000000000]]}', 4)
    assert progress.done == {9, 10, 12, 13}


def test_what_was_done_and_not_read_again_outlives_a_second_crash() -> None:
    before = handed_out(6)
    before.finish([102, 103, 105])
    second = Progress.read(before.committed, before.metadata())
    third = Progress.read(second.committed, second.metadata())
    assert (third.tried, third.done) == (106, {102, 103, 105})
