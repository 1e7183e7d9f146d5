"""Calibrators when a signal handler or a fork comes in between: no deadlock, and whatever is shown is whole."""

import os
import signal
import threading

import numpy as np
import pytest

from quantcore import Calibrator, InvalidStateError
from tests.support.levels import python

pytestmark = pytest.mark.slow  # seconds of signals for each test

VALUES = np.random.default_rng(2).standard_normal((64, 1 << 15)).astype(np.float32)

# A handler runs during observe, again and again; `ask` is what it calls. Shown is the state of before, or a refusal.
HANDLER = """
import json, signal, sys, threading
import numpy as np
from quantcore import Calibrator, QuantcoreError
values = np.random.default_rng(0).standard_normal((64, 1 << 15)).astype(np.float32)
calibrator = Calibrator.{made}
calibrator.observe(values)
states, during, done, answers = [json.dumps(calibrator.to_dict())], [False], [False], []

def ask(number, frame):
    if done[0]:
        return
    if during[0]:
        try:
            {ask}
        except QuantcoreError as error:
            answers.append(type(error).__name__)
            assert "\\n" not in str(error)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)

signal.signal(signal.SIGALRM, ask)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
while len(states) < 5 or (not answers and len(states) < 1000):  # a busy machine may miss the calls for long
    during[0] = True
    calibrator.observe(values, n_threads=2)
    during[0] = False
    states.append(json.dumps(calibrator.to_dict()))
done[0] = True  # Python complains of a signal that it has noted when the handler is taken away, so it stays
signal.setitimer(signal.ITIMER_REAL, 0)
shown = [answer for answer in answers if answer.startswith("{{")]
print(calibrator.num_batches == len(states), bool(answers), all(state in states for state in shown), len(shown) > 0,
      *sorted(set(answers) - set(shown)))
"""
MAKERS = {"min_max": "min_max(axis=0)", "one histogram": "percentile()", "many histograms": "percentile(axis=0)"}
needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals of a timer")


@needs_signals
@pytest.mark.parametrize("made", MAKERS)
def test_a_signal_handler_reads(made):
    child = python(HANDLER.format(made=MAKERS[made], ask="answers.append(json.dumps(calibrator.to_dict()))"))
    assert (child.returncode, child.stderr) == (0, "")
    has_all_batches, was_asked, all_known, some, *refusals = child.stdout.split()
    assert (has_all_batches, was_asked, all_known) == ("True", "True", "True")
    if made == "many histograms":
        assert refusals in ([], ["InvalidStateError"])
    else:
        assert (some, refusals) == ("True", [])


@needs_signals
@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("call", ["observe(values[:, :8])", "reset()", "merge(Calibrator.%s)"])
def test_a_signal_handler_cannot_change_what_is_being_changed(made, call):
    call = call.replace("%s", MAKERS[made])
    child = python(HANDLER.format(made=MAKERS[made], ask=f"calibrator.{call}; answers.append('{{}}')"))
    assert (child.returncode, child.stderr) == (0, "")
    has_all_batches, was_asked, *_, refusal = child.stdout.split()
    assert (was_asked, refusal) == ("True", "InvalidStateError")
    assert has_all_batches == "True" or "merge" not in call


FORKED = """
import json, os, sys, threading, time, warnings
import numpy as np
from quantcore import Calibrator, QuantcoreError
values = np.random.default_rng(0).standard_normal((64, 1 << 16)).astype(np.float32)
calibrator = Calibrator.{made}
calibrator.observe(values)
stop = threading.Event()
states = []

def observe():
    while not stop.is_set():
        calibrator.observe(values, n_threads=1)

thread = threading.Thread(target=observe)
thread.start()
codes = []
for i in range(20):
    time.sleep(0.002)
    before = calibrator.num_batches if {is_atomic} else 0
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            state = calibrator.to_dict()
            again = Calibrator.from_dict(state)
            calibrator.observe(values)
            again.observe(values)
            code = 0 if calibrator.to_dict() == again.to_dict() and state["num_batches"] >= before else 2
        except QuantcoreError as error:
            calibrator.reset()
            calibrator.observe(values)
            code = 3 if calibrator.num_batches == 1 and "reset()" in str(error) else 4
        finally:
            os._exit(code)
    for _ in range(2000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        status = 9
    codes.append(os.waitstatus_to_exitcode(status))
stop.set()
thread.join()
print(sorted(set(codes)))
"""


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="needs fork")
@pytest.mark.parametrize("made", MAKERS)
def test_a_child_that_is_forked_while_another_thread_observes(made):
    is_atomic = made != "many histograms"
    child = python(FORKED.format(made=MAKERS[made], is_atomic=is_atomic))
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.strip() in (["[0]"] if is_atomic else ["[0]", "[3]", "[0, 3]"])


def test_other_threads_wait():
    calibrator = Calibrator.percentile(axis=0)
    threads = [
        threading.Thread(target=calibrator.observe, args=(VALUES[:, i * 1024 : (i + 1) * 1024],)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        try:
            seen.append(calibrator.compute().scale.shape)
        except InvalidStateError as error:
            assert "nothing was observed yet" in str(error)
    for thread in threads:
        thread.join()
    whole = Calibrator.percentile(axis=0)
    whole.observe(VALUES[:, : 8 * 1024])
    assert calibrator.num_batches == 8 and set(seen) <= {(64,)}
    assert calibrator.to_dict()["state"] == whole.to_dict()["state"]
