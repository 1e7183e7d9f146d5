"""Programs for a new interpreter: a call that is interrupted, forked children, more than 2^31 elements."""

INTERRUPTED = """
import signal, time
import numpy as np, quantcore
values = np.zeros(1 << 29, np.float32)  # never written: takes no memory
data = np.zeros((1 << 28) // 32 * 34, np.uint8)
out = np.empty({out}, np.uint8)
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)  # as Python answers SIGINT; no thread has to be woken for it
quantcore.dequantize(quantcore.quantize(np.ones((1, 32), np.float32), "Q8_0"), "Q8_0")  # imports nothing later
for _ in range(50):  # a busy machine may hear the signal when the call is nearly done
    out[:] = 0xAA
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # early in a call of some tenths of a second
        quantcore.{call}, n_threads={n_threads})
    except KeyboardInterrupt:
        duration = time.monotonic() - start
        sample = out[::4096].copy()
    if sample[-1] == 0xAA and duration < 1:
        break
time.sleep(0.1)
print(duration, sample[-1] == 0xAA, (sample == out[::4096]).all())
print(quantcore.quantize(np.ones((1 << 15, 64), np.float32), "Q8_0")[-1, -1])
"""
SECONDS_TO_SIGNAL = 0.01
INTERRUPTED_CALLS = {
    'quantize(values, "Q4_0", out=out': "(1 << 29) // 32 * 18",
    'dequantize(data, "Q8_0", dtype=np.float16, out=out.view(np.float16)': "1 << 29",
}

FORKED = """
import os, sys, multiprocessing
import numpy as np, quantcore
values = np.ones((1 << 15, 64), np.float32)

def work(n_threads):
    return quantcore.quantize(values, "Q8_0", n_threads=n_threads).tobytes()

expected = work(4)
children = []
for i in range({n_children}):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work((1, 4)[i % 2]) == expected else 1)
    children.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(work, [1, 2, 3, 4]) == [expected] * 4)
print(work(4) == expected)
"""

HUGE = """
import numpy as np, quantcore
N = 1 << 31
values = np.zeros(N + 64, np.float32)  # 8 GiB of address space; only what is written takes memory
assert not isinstance(values, np.memmap)
parts = [slice(0, 32), slice(N - 32, N), slice(N, N + 32), slice(N + 32, N + 64)]
for k, part in enumerate(parts):
    values[part] = np.linspace(-1, 1 + k, 32)
data = quantcore.quantize(values, "Q4_0")
blocks = data.reshape(-1, 18)
for part in parts:
    block = blocks[part.start // 32]
    assert block.tobytes() == quantcore.quantize(values[part], "Q4_0").tobytes(), part
    assert quantcore.dequantize(block, "Q4_0").any()
zero = quantcore.quantize(np.zeros(32, np.float32), "Q4_0")
assert np.count_nonzero((blocks[::4099] != zero).any(axis=1)) == 1
values[N + 40] = np.nan
try:
    quantcore.quantize(values, "Q4_0", out=data)
except quantcore.InvalidValueError as error:
    print(error)
# Not getrusage: there the figure of the process that forked this one counts, too.
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
"""
