"""Memory for loading: what threads hold together stays within a limit, and pages are used again by nobody too early."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.memory import ByteBudget, PixelBuffers
from transforms.model_calls import to_tensor


class TestByteBudget:
    @settings(deadline=None, max_examples=25)
    @given(amounts=st.lists(st.integers(0, 150), min_size=1, max_size=25))
    def test_limit_is_never_passed_but_by_one_alone(self, amounts: list[int]) -> None:
        """Whatever threads ask for, all of them get it, and together they hold at most the limit."""
        budget = ByteBudget(100)
        lock = threading.Lock()
        held: list[int] = []
        seen: list[list[int]] = []

        def use(amount: int) -> None:
            budget.acquire(amount)
            with lock:
                held.append(amount)
                seen.append(list(held))
            time.sleep(0.0002)
            with lock:
                held.remove(amount)
            budget.release(amount)

        with ThreadPoolExecutor(6) as pool:
            assert len(list(pool.map(use, amounts))) == len(amounts)
        for together in seen:
            assert sum(together) <= 100 or len([amount for amount in together if amount]) == 1

    def test_oversized_one_waits_until_it_is_alone(self) -> None:
        """And nothing joins it."""
        budget = ByteBudget(100)
        budget.acquire(1)
        steps: list[str] = []

        def use(amount: int, name: str) -> None:
            budget.acquire(amount)
            steps.append(name)

        large = threading.Thread(target=use, args=(1000, "large"))
        large.start()
        time.sleep(0.02)
        assert steps == []
        budget.release(1)
        large.join(5)
        small = threading.Thread(target=use, args=(1, "small"))
        small.start()
        time.sleep(0.02)
        assert steps == ["large"]
        budget.release(1000)
        small.join(5)
        assert steps == ["large", "small"]

    def test_memory_of_a_thread_that_hangs_stays_held_and_keeps_nobody_waiting_for_ever(self) -> None:
        """What fits beside it goes on; what does not goes when it is alone but for what hangs."""
        budget = ByteBudget(100)
        budget.acquire(60)
        budget.acquire(40)
        steps: list[str] = []

        def use() -> None:
            budget.acquire(50)
            steps.append("50")

        waiting = threading.Thread(target=use)
        waiting.start()
        budget.give_up(60)
        time.sleep(0.02)
        assert steps == [], "100 bytes are in use, 40 of them by one that will give them back"
        budget.release(40)
        waiting.join(5)
        assert steps == ["50"]

    @pytest.mark.parametrize("order", ["given up first", "back first"])
    def test_thread_that_comes_back_gives_its_memory_back(self, order: str) -> None:
        """Even in the very moment in which it is given up: the limit is what it was."""
        budget = ByteBudget(100)
        budget.acquire(60)
        steps = [lambda: budget.give_up(60), lambda: budget.release(60, stuck=True)]
        for step in steps if order == "given up first" else reversed(steps):
            step()
        budget.acquire(1)
        joined: list[int] = []
        second = threading.Thread(target=lambda: (budget.acquire(100), joined.append(1)))
        second.start()
        time.sleep(0.02)
        assert joined == []
        budget.acquire(99)
        budget.release(99)
        budget.release(1)
        second.join(5)
        assert joined == [1]


class TestPixelBuffers:
    def test_memory_is_used_again_only_when_nobody_holds_any_part_of_it(self) -> None:
        """A view of one row, or a tensor over it, keeps the whole batch from being overwritten."""
        buffers = PixelBuffers()
        first = buffers.take((4, 2, 2, 3))
        first[:] = 7
        kept = first[1:2, :, 1]
        address = first.ctypes.data
        del first
        second = buffers.take((4, 2, 2, 3))
        second[:] = 9
        assert (kept == 7).all()
        del kept
        assert buffers.take((4, 2, 2, 3)).ctypes.data == address
        assert (second == 9).all()

    def test_tensor_over_a_batch_keeps_its_memory(self) -> None:
        """TensorFlow reads the pixels where they lie: they stay as long as the tensor does."""
        buffers = PixelBuffers()
        pixels = buffers.take((2, 4, 4, 3))
        pixels[:] = 7
        tensor = to_tensor(pixels)
        pixels[0] = 8
        assert (tensor.numpy() == pixels).all(), "it was copied"
        del pixels
        buffers.take((2, 4, 4, 3))[:] = 9
        assert sorted(set(tensor.numpy().reshape(-1).tolist())) == [7, 8]
