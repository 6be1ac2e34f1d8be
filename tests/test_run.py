"""`penstock run`: programs do what they do under plain Python, and their loaders are Penstock's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import click
import pytest

import penstock
from penstock.integrations.waits import sentence

SLOW = pytest.mark.slow
PROGRAMS = Path(__file__).parent / "programs"
PENSTOCK = (sys.executable, "-m", "penstock", "run")
LINE = re.compile(
    r"penstock: (no batches came from torch's DataLoader"
    r"|waited (?P<waited>[\d.]+) s for (?P<batches>\d+) batches of data, \d+% of the run's [\d.]+ s"
    r"( in (?P<processes>\d+) processes)?)\n"
)


@dataclass
class Ran:
    """What a program left behind; `line` is Penstock's, taken off its errors."""

    status: int
    out: str
    errors: str
    line: re.Match[str] | None = None

    @property
    def batches(self) -> int:
        assert self.line is not None, self
        return int(self.line["batches"] or 0)

    @property
    def program(self) -> tuple[int, str, str]:
        """What the program did itself."""
        return self.status, self.out, self.errors


def execute(line: Sequence[str], cwd: Path, feed: str = "", env: dict[str, str] | None = None) -> Ran:
    done = subprocess.run(
        line,
        cwd=cwd,
        input=feed,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return taken_apart(done.returncode, done.stdout, done.stderr)


def taken_apart(status: int, out: str, errors: str) -> Ran:
    lines = [match for match in map(LINE.fullmatch, errors.splitlines(keepends=True)) if match]
    assert len(lines) <= 1
    if not lines:
        return Ran(status, out, errors)
    assert errors.endswith(lines[0][0]), errors
    return Ran(status, out, errors.removesuffix(lines[0][0]), lines[0])


def penstock_run(program: Sequence[str], cwd: Path, feed: str = "", env: dict[str, str] | None = None) -> Ran:
    return execute((*PENSTOCK, *program), cwd, feed, env)


def same_as_python(program: Sequence[str], cwd: Path, feed: str = "") -> Ran:
    """Run it both ways; return what both did."""
    plain = execute((sys.executable, *program), cwd, feed)
    ours = penstock_run(program, cwd, feed)
    assert ours.program == plain.program
    return ours


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source), encoding="utf-8")
    return path


SHOW = """
    import inspect, pickle, sys
    class Mine: pass
    spec = __spec__ and __spec__.name
    print(sys.argv, sys.orig_argv[1:] == ["-u"], __name__, __file__, spec, __package__)
    print(sys.path[0], sys.flags, sys.executable, len(inspect.stack()))
    print(type(pickle.loads(pickle.dumps(Mine()))) is Mine, sys.modules["__main__"].__dict__ is globals())
    print(sorted(globals()), "click" in sys.modules, "torch" in sys.modules, sys.stdout.encoding)
"""
"""What a program can see of how it was started."""


class TestTheProgram:
    """Without torch, so that a run takes no time: with all else as under plain Python."""

    @pytest.mark.parametrize(
        "arguments", [(), ("a", "b"), ("--help",), ("-m", "--", "-h"), ("--", "x"), ("", "ü ∑")], ids=str
    )
    def test_sees_itself_started_by_python(self, script: Path, arguments: tuple[str, ...]) -> None:
        write(script, SHOW)
        ran = same_as_python((script.name, *arguments), script.parent)
        assert ran.status == 0
        assert str([script.name, *arguments]) in ran.out
        assert ran.line is not None
        assert ran.batches == 0

    def test_given_by_another_folders_path_finds_its_neighbours(self, tmp_path: Path) -> None:
        write(tmp_path / "there" / "script.py", f"import neighbour\n{dedent(SHOW)}")
        write(tmp_path / "there" / "neighbour.py", "print(__file__)")
        (tmp_path / "here").mkdir()
        ran = same_as_python(("../there/script.py",), tmp_path / "here")
        assert ran.status == 0
        assert str(tmp_path / "there") in ran.out

    def test_a_module(self, tmp_path: Path) -> None:
        write(tmp_path / "package" / "__init__.py", "print('first', __name__)")
        write(tmp_path / "package" / "inner.py", f"from . import other\n{dedent(SHOW)}")
        write(tmp_path / "package" / "other.py", "")
        write(tmp_path / "package" / "__main__.py", SHOW)
        for name in ("package", "package.inner"):
            assert same_as_python(("-m", name, "--help", "-m", "x"), tmp_path).status == 0

    def test_a_folder_and_an_archive(self, tmp_path: Path) -> None:
        main = write(tmp_path / "folder" / "__main__.py", f"import neighbour\n{dedent(SHOW)}")
        neighbour = write(tmp_path / "folder" / "neighbour.py", "print(__file__)")
        with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
            archive.write(main, "__main__.py")
            archive.write(neighbour, "neighbour.py")
        for name in ("folder", "program.zip"):
            ran = same_as_python((name, "x"), tmp_path)
            assert ran.status == 0
            assert ran.line is not None

    def test_on_standard_input(self, tmp_path: Path) -> None:
        assert same_as_python(("-", "x"), tmp_path, feed=dedent(SHOW)).status == 0

    def test_reads_standard_input_and_writes_unicode(self, script: Path) -> None:
        write(script, "import sys; print(sys.stdin.read().upper()); print('≤ Ω', file=sys.stderr)")
        assert same_as_python((script.name,), script.parent, feed="größe\n").out == "GRÖSSE\n\n"

    @pytest.mark.parametrize(
        ("ending", "status"),
        [
            ("sys.exit()", 0),
            ("sys.exit(3)", 3),
            ("sys.exit('a message')", 1),
            ("raise SystemExit(4)", 4),
            ("def f(): raise ValueError('wrong')\nf()", 1),
            ("raise KeyboardInterrupt", -signal.SIGINT),
            ("raise EOFError", 1),
            ("raise BrokenPipeError", 1),
            ("import nothing_of_this_name", 1),
            ("1 / 0 if True else (", 1),
            ("raise ExceptionGroup('both', [ValueError(1), TypeError(2)])", 1),
            ("sys.excepthook = lambda kind, *_: print(kind); raise ValueError", 1),
            ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
            ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
            ("os.abort()", -signal.SIGABRT),
            ("os._exit(5)", 5),
            ("sys.stdout.close(); sys.stderr.close()", 0),
            ("sys.stdout = sys.stderr = None", 0),
            ("os.closerange(3, 256)", 0),
            ("if os.fork() == 0: sys.exit(1)\nos.wait()", 0),
            ("signal.signal(signal.SIGALRM, lambda *_: sys.exit(6)); signal.raise_signal(signal.SIGALRM)", 6),
            ("argparse.ArgumentParser(prog='it').parse_args(['--help'])", 0),
            ("argparse.ArgumentParser(prog='it').parse_args(['--unknown'])", 2),
            ("traceback.print_stack()", 0),
            ("warnings.warn('careful', stacklevel=3)", 0),
            ("threading.Thread(target=lambda: 1 / 0).start()", 0),
            ("atexit.register(print, 'the last'); atexit.register(int, 'x')", 0),
        ],
    )
    def test_ends_as_it_would(self, script: Path, ending: str, status: int) -> None:
        imports = "import argparse, atexit, os, signal, sys, threading, traceback, warnings\n"
        script.write_text(f"{imports}print('begun', flush=True)\n{ending}\n")
        assert same_as_python((script.name,), script.parent).status == status

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)]
    )
    def test_signals_from_outside_reach_it_and_nothing_else(
        self, script: Path, number: signal.Signals, status: int
    ) -> None:
        write(
            script,
            """
            import atexit, os, signal
            atexit.register(print, "at its end")
            print(os.getpid(), flush=True)
            while True:
                signal.pause()
            """,
        )
        with subprocess.Popen(
            [*PENSTOCK, script.name],
            cwd=script.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == process.pid
            process.send_signal(number)
            out, errors = process.communicate(timeout=30)
        ran = taken_apart(process.returncode, out, errors)
        assert ran.status == status
        if number == signal.SIGINT:
            assert ran.out == "at its end\n"
            assert ran.errors.splitlines()[0] == "Traceback (most recent call last):"
            assert ran.errors.count("File ") == 1
            assert ran.line is not None
        else:
            assert (ran.out, ran.errors, ran.line) == ("", "", None)

    def test_pythons_own_options_stay(self, script: Path) -> None:
        write(
            script, "import sys; print(sys.flags, sys.warnoptions, sys._xoptions, sys.stdout.write_through)"
        )
        options = ("-u", "-O", "-W", "error", "-X", "utf8")
        plain = execute((sys.executable, *options, "-q", script.name), script.parent)
        for launch in (("-q", "-m", "penstock"), ("-q", "-mpenstock"), ("-qm", "penstock")):
            ours = execute((sys.executable, *options, *launch, "run", script.name), script.parent)
            assert ours.program == plain.program

    def test_the_installed_command(self, script: Path) -> None:
        installed = Path(sys.executable).with_name("penstock")
        if not installed.exists():
            pytest.skip("Penstock isn't installed here")
        write(script, SHOW)
        python = installed.read_text().splitlines()[0].removeprefix("#!")
        plain = execute((python, script.name, "x"), script.parent)
        assert execute((str(installed), "run", script.name, "x"), script.parent).program == plain.program

    def test_from_the_folder_that_holds_the_package(self, script: Path, tmp_path: Path) -> None:
        """There, `python -m penstock` finds it in the current directory, and the program has to as well."""
        os.symlink(Path(penstock.__file__).parent, tmp_path / "penstock")
        write(script, "import sys; print([place for place in sys.path if 'startup' in place])")
        ran = penstock_run((str(script),), tmp_path, env={"PYTHONPATH": ""})
        assert ran.program == (0, "[]\n", "")
        assert ran.line is not None


class TestMistakes:
    @pytest.mark.parametrize(
        ("program", "status"),
        [
            (("missing.py",), 2),
            (("folder",), 1),
            (("-m", "no_such_module"), 1),
            (("-m", "package"), 1),
            (("-m", "package.missing"), 1),
            (("syntax.py",), 1),
        ],
        ids=str,
    )
    def test_pythons_message_and_status(self, tmp_path: Path, program: tuple[str, ...], status: int) -> None:
        (tmp_path / "folder").mkdir()
        write(tmp_path / "package" / "__init__.py", "")
        write(tmp_path / "syntax.py", "1 +")
        ran = same_as_python(program, tmp_path)
        assert ran.status == status
        assert ran.errors
        assert (ran.line is not None) == (program == ("syntax.py",))

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "Missing argument 'PROGRAM'"),
            (("-m",), "Missing argument"),
            (("-x", "a.py"), "No such option"),
        ],
    )
    def test_a_command_that_says_nothing_to_run(
        self, tmp_path: Path, arguments: tuple[str, ...], said: str
    ) -> None:
        ran = penstock_run(arguments, tmp_path)
        assert ran.status == 2
        assert said in ran.errors
        assert "Traceback" not in ran.errors

    @pytest.mark.parametrize("option", ["-E", "-S"])
    def test_options_that_would_keep_penstock_out_are_refused(self, script: Path, option: str) -> None:
        write(script, "print('ran')")
        places = [str(Path(module.__file__ or "").parents[1]) for module in (penstock, click)]
        code = f"import sys; sys.path[:0] = {places}; from penstock.cli import main; main()"
        ran = execute((sys.executable, option, "-c", code, "run", script.name), script.parent)
        assert ran.status == 1
        assert ran.out == ""
        assert ran.errors == "Error: Python's options -I, -E and -S keep Penstock out: run it without them.\n"


class TestOtherPythons:
    """What a program starts inherits Penstock, and has to live with it."""

    @pytest.mark.parametrize("body", ["import builtins; builtins.theirs = __file__", "import of_nothing"])
    def test_a_sitecustomize_of_the_users_still_runs(self, script: Path, tmp_path: Path, body: str) -> None:
        write(tmp_path / "theirs" / "sitecustomize.py", body)
        write(
            script,
            """
            import sys
            module = sys.modules.get("sitecustomize")
            print(globals()["__builtins__"].__dict__.get("theirs"), module and module.__file__, sys.path)
            """,
        )
        paths = os.pathsep.join(["theirs", *filter(None, [os.environ.get("PYTHONPATH")])])
        plain = execute((sys.executable, str(script)), tmp_path, env={"PYTHONPATH": paths})
        ours = penstock_run((str(script),), tmp_path, env={"PYTHONPATH": paths})
        assert (ours.status, ours.out) == (plain.status, plain.out)
        assert ours.errors == plain.errors * 2, "the command `penstock` itself is under it, too"

    def test_programs_that_it_runs(self, script: Path) -> None:
        write(
            script,
            f"""
            import os, subprocess, sys

            def run(*line, **more):
                done = subprocess.run(line, capture_output=True, text=True, **more)
                print(done.returncode, done.stdout.strip(), done.stderr.strip())

            run(sys.executable, "-c", "import sys; print(sys.path[:1], 'penstock' in sys.modules)")
            run(sys.executable, "-S", "-c", "print('no site')")
            run(sys.executable, "-I", "-c", "print('isolated')")
            run(sys.executable, "-c", "print('bare')", env={{"PYTHONPATH": os.environ["PYTHONPATH"]}})
            run({", ".join(map(repr, PENSTOCK))}, "missing.py")
            run({", ".join(map(repr, PENSTOCK))}, "other.py", "x")
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, "other.py", "replaced"])
            """,
        )
        write(script.with_name("other.py"), "import sys; print(sys.argv)")
        ran = penstock_run((script.name,), script.parent)
        assert ran.status == 0
        assert ran.errors == ""
        assert ran.line is not None
        nothing = "penstock: no batches came from torch's DataLoader"
        missing = ran.out.splitlines()[4]
        assert missing.startswith("2 ")
        assert missing.endswith("[Errno 2] No such file or directory")
        assert ran.out.splitlines() == [
            "0 [''] True ",
            "0 no site ",
            "0 isolated ",
            "0 bare ",
            missing,
            f"0 ['other.py', 'x'] {nothing}",
            "['other.py', 'replaced']",
        ]

    def test_a_python_without_penstock(self, script: Path, tmp_path: Path) -> None:
        """Isolated from all packages, it finds our start-up file but nothing that that needs."""
        write(
            script,
            """
            import os, subprocess, sys
            env = {**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"].split(os.pathsep)[0]}
            bare = os.path.join(sys.base_prefix, "bin", "python3")
            code = "import sys; print('penstock' in sys.modules, 'sitecustomize' in sys.modules)"
            print(subprocess.run([bare, "-s", "-c", code], env=env, capture_output=True, text=True))
            """,
        )
        bare = Path(sys.base_prefix) / "bin" / "python3"
        if execute((str(bare), "-c", "import penstock"), tmp_path, env={"PYTHONPATH": ""}).status == 0:
            pytest.skip("the base Python has Penstock")
        ran = penstock_run((str(script),), tmp_path)
        assert "returncode=0" in ran.out
        assert "stdout='False" in ran.out
        assert "stderr=''" in ran.out


class TestReplacing:
    def test_every_way_to_the_class(self, script: Path) -> None:
        write(
            script.with_name("framework.py"),
            """
            from abc import ABC
            from torch.utils.data import DataLoader

            class Loader(DataLoader, ABC):
                def __iter__(self):
                    for batch in super().__iter__():
                        yield "mine", batch
            """,
        )
        write(
            script,
            """
            import os, sys
            assert "torch" not in sys.modules, "OMP_NUM_THREADS and the like are set before torch's import"
            from torch.utils.data import DataLoader as Renamed, TensorDataset
            import torch, torch.utils.data.dataloader, framework, pickle
            import penstock

            ways = [Renamed, torch.utils.data.DataLoader, torch.utils.data.dataloader.DataLoader]
            assert ways == [penstock.DataLoader] * 3
            assert not vars(torch.__spec__.loader).keys() - {"name", "path"}

            data = TensorDataset(torch.arange(6))
            loader = framework.Loader(data, batch_size=2)
            assert isinstance(loader, penstock.DataLoader) and isinstance(loader, torch.utils.data.DataLoader)
            assert [tag for tag, _ in loader] == ["mine"] * 3

            own, = [base for base in Renamed.__mro__ if base.__module__ == "torch.utils.data.dataloader"]
            assert [len(x) for x, in own(data, batch_size=4)] == [4, 2], "torch's own still works"
            assert penstock.upgrade(loader) is loader
            assert len(pickle.loads(pickle.dumps(Renamed(data)))) == 6
            assert type(iter(Renamed(data))).__module__.startswith("penstock.")
            """,
        )
        ran = penstock_run((script.name,), script.parent)
        assert ran.program == (0, "", "")
        assert ran.batches == 3

    @pytest.mark.parametrize(
        "first",
        [
            "import penstock; penstock.DataLoader",
            pytest.param("import penstock.tree, penstock.arena", marks=SLOW),
            pytest.param("import penstock.backends.processes, json.tool", marks=SLOW),
            "import penstock.backends.processes, penstock.engine, json.tool",
        ],
    )
    def test_whichever_is_imported_first(self, script: Path, first: str) -> None:
        """torch's import is then a part of that of ours."""
        write(
            script,
            f"""
            {first}
            from torch.utils.data import DataLoader
            import penstock, penstock.engine, penstock.arena
            from penstock.loader import session
            assert DataLoader is penstock.DataLoader
            assert session.Engine is penstock.engine.Engine
            assert session.ArenaPool is penstock.arena.ArenaPool
            """,
        )
        assert penstock_run((script.name,), script.parent).program == (0, "", "")

    @pytest.mark.slow
    def test_names_that_were_imported_before(self, script: Path) -> None:
        """By a package's start-up file, say, which Python reads before ours."""
        write(
            script,
            """
            import sys
            from torch.utils.data import DataLoader as Early
            from penstock.integrations.replace import replace_when_imported
            replace_when_imported(lambda: print("done"))
            import penstock, torch.utils.data, types
            assert Early is torch.utils.data.DataLoader is penstock.DataLoader
            """,
        )
        assert execute((sys.executable, script.name), script.parent).program == (0, "done\n", "")

    def test_an_import_of_torch_that_fails(self, script: Path) -> None:
        """Its traceback is Python's, though we stood by."""
        write(script.with_name("torch") / "__init__.py", "import torch.inner")
        write(script.with_name("torch") / "inner.py", "raise OSError('no such library')")
        write(script, "try:\n    import torch\nexcept OSError:\n    print('again')\nimport torch")
        ran = same_as_python((script.name,), script.parent)
        assert ran.status == 1
        assert ran.errors.endswith("OSError: no such library\n")


WAITING = """
    import sys, time
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Slow(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            time.sleep(0.02)
            return index

    def load(*_, **arguments):
        return sum(1 for batch in DataLoader(Slow(), batch_size=4, **arguments))
"""


class TestTheLine:
    def test_it_adds_up_all_loaders(self, script: Path) -> None:
        more = "print(load(), load(num_workers=2), load(num_workers=1, persistent_workers=True))"
        write(script, WAITING + " " * 4 + more)
        ran = penstock_run((script.name,), script.parent)
        assert ran.program == (0, "2 2 2\n", "")
        assert ran.line is not None
        assert ran.batches == 6
        assert float(ran.line["waited"]) >= 0.2

    def test_it_comes_after_an_error_and_after_what_the_program_registered(self, script: Path) -> None:
        more = """
    import atexit
    atexit.register(lambda: print("the last", load(), file=sys.stderr, flush=True))
    load()
    raise ValueError("wrong")
"""
        write(script, WAITING + more)
        ran = penstock_run((script.name,), script.parent)
        assert ran.status == 1
        assert ran.errors.endswith("ValueError: wrong\nthe last 2\n")
        assert ran.batches == 4

    @pytest.mark.parametrize(
        "method",
        [
            "fork",
            pytest.param("spawn", marks=SLOW),
            pytest.param("forkserver", marks=SLOW),
        ],
    )
    def test_it_counts_processes_that_the_program_started(self, script: Path, method: str) -> None:
        more = f"""
    if __name__ == "__main__":
        import torch.multiprocessing as mp
        children = [mp.get_context("{method}").Process(target=load) for _ in range(2)]
        for child in children: child.start()
        for child in children: child.join()
        print([child.exitcode for child in children], load())
"""
        write(script, WAITING + more)
        ran = penstock_run((script.name,), script.parent)
        assert ran.program == (0, "[0, 0] 2\n", "")
        assert ran.line is not None
        assert (ran.batches, ran.line["processes"]) == (6, "3")

    @pytest.mark.slow
    def test_it_does_not_count_what_workers_wait_for(self, script: Path) -> None:
        more = """
    class Nested(Slow):
        def __getitem__(self, index):
            return load()

    print(next(iter(DataLoader(Nested(), num_workers=1))))
"""
        write(script, WAITING + more)
        ran = penstock_run((script.name,), script.parent)
        assert ran.program == (0, "tensor([2])\n", "")
        assert ran.batches == 1

    @pytest.mark.slow
    def test_a_program_that_closed_its_file_is_told_of_its_own(self, script: Path) -> None:
        more = """
    import os
    print(load())
    os.closerange(3, 256)
    mine = [open("mine.txt", "w") for _ in range(20)]
    if os.fork() == 0:
        load()
        os._exit(0)
    os.wait()
    print(load())
"""
        write(script, WAITING + more)
        ran = penstock_run((script.name,), script.parent)
        assert ran.program == (0, "2\n2\n", "")
        assert ran.batches == 4
        assert script.with_name("mine.txt").read_bytes() == b""

    @pytest.mark.parametrize(
        ("figures", "run_s", "said"),
        [
            ([], 3.0, "no batches came from torch's DataLoader"),
            ([(1.5, 10)], 3.0, "waited 1.50 s for 10 batches of data, 50% of the run's 3.00 s"),
            (
                [(1.0, 10), (2.0, 5)],
                10.0,
                "waited 3.00 s for 15 batches of data, 15% of the run's 10.00 s in 2 processes",
            ),
        ],
    )
    def test_its_words(self, figures: list[tuple[float, int]], run_s: float, said: str) -> None:
        assert sentence(figures, run_s) == said


class TestProcesses:
    @pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=SLOW)])
    def test_they_import_main_again_as_under_python(self, script: Path, method: str) -> None:
        write(
            script,
            f"""
            import multiprocessing, sys

            class Mine:
                pass

            def where(thing):
                return __name__, type(thing).__module__, __file__, sys.argv, sys.path[0]

            print("top", __name__, flush=True)
            if __name__ == "__main__":
                with multiprocessing.get_context("{method}").Pool(1) as pool:
                    print(pool.map(where, [Mine()]))
            """,
        )
        assert same_as_python((script.name, "x"), script.parent).status == 0
        assert same_as_python(("-m", "script", "x"), script.parent).status == 0

    @pytest.mark.slow
    def test_under_torchrun(self, script: Path) -> None:
        more = """
    import os
    ours = DataLoader.__module__.startswith("penstock.")
    print(os.environ["RANK"], sys.argv[1:], ours, load(num_workers=1), flush=True)
"""
        write(script, WAITING + more)
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
        ran = subprocess.run(
            [*torchrun, "-m", "penstock", "run", script.name, "--lr", "1"],
            cwd=script.parent,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert sorted(ran.stdout.splitlines()) == [f"{rank} ['--lr', '1'] True 2" for rank in (0, 1)]
        assert len(LINE.findall(ran.stderr)) == 2


class TestPrograms:
    """The three programs of an article on parallel loading, unchanged."""

    @pytest.mark.parametrize(
        ("name", "batches"), [("example1.py", 626), pytest.param("example3.py", 313, marks=SLOW)]
    )
    def test_they_run(self, tmp_path: Path, name: str, batches: int) -> None:
        ran = penstock_run((str(PROGRAMS / name),), tmp_path)
        assert ran.status == 0, ran.errors
        assert re.search(r"DataLoader Time: [\d.]+ seconds\n", ran.out)
        assert ran.batches == batches
        assert "Traceback" not in ran.errors

    @pytest.mark.slow
    def test_the_second_up_to_its_own_mistake(self, tmp_path: Path) -> None:
        ran = penstock_run((str(PROGRAMS / "example2.py"),), tmp_path)
        assert ran.status == 1
        assert ran.errors.endswith("NameError: name 'time' is not defined\n")
        assert ran.errors.count("File ") == 1
