"""What a hostile program finds when it looks for a way out, asked from inside."""

import os
import textwrap
import time

import pytest

from tests.workers.walls import all_gone, ask, run

ATTEMPT = """
def attempt(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "done"
def tell(**acts):
    print(json.dumps({name: attempt(act) for name, act in acts.items()}))
"""
REFUSED = {"PermissionError", "FileNotFoundError", "OSError", "ProcessLookupError"}


def attempts(sandbox, folder, acts: str) -> dict[str, str]:
    return ask(sandbox, folder, textwrap.dedent(ATTEMPT) + textwrap.dedent(acts))


def test_no_socket_of_any_family(sandbox, tmp_path):
    said = attempts(
        sandbox,
        tmp_path,
        """
        import socket
        tell(
            inet=lambda: socket.socket(socket.AF_INET),
            inet6=lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
            unix=lambda: socket.socket(socket.AF_UNIX).connect("\\0abstract"),
            netlink=lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            pair=socket.socketpair,
        )
        """,
    )
    assert said == dict.fromkeys(("inet", "inet6", "unix", "netlink", "pair"), "PermissionError")


@pytest.fixture
def data(tmp_path):
    """Give a data folder with a key, and in it the folder of a job."""
    key = tmp_path / "data" / "admin.key"
    (tmp_path / "data" / "scratch" / "job").mkdir(parents=True)
    key.write_text("key_1.secret")
    return tmp_path / "data"


def test_no_file_but_the_code_and_its_own_folder(sandbox, data):
    said = attempts(
        sandbox,
        data / "scratch" / "job",
        f"""
        import pathlib
        os.symlink({str(data / "admin.key")!r}, "link")
        pathlib.Path("own").write_text("mine")
        tell(
            key=lambda: open({str(data / "admin.key")!r}),
            through_a_link=lambda: open("link"),
            by_dots=lambda: open("../../admin.key"),
            around=lambda: open(next((p for p in pathlib.Path("../..").iterdir() if p.is_file()), "/nothing")),
            shadow=lambda: open("/etc/shadow"),
            passwd=lambda: open("/etc/passwd"),
            home=lambda: os.listdir("/home"),
            disk=lambda: os.listdir("/dev/disk"),
            own=lambda: open("own"),
            interpreter=lambda: open(sys.executable, "rb"),
        )
        """,
    )
    assert (said.pop("own"), said.pop("interpreter")) == ("done", "done")
    assert set(said.values()) <= REFUSED


def test_nothing_outside_is_written_or_changed(sandbox, data):
    key = data / "admin.key"
    key.chmod(0o600)
    said = attempts(
        sandbox,
        data / "scratch" / "job",
        f"""
        import app, pathlib
        key, code = {str(key)!r}, app.__file__
        tell(
            beside=lambda: open("../outside", "w"),
            root=lambda: open("/outside", "w"),
            shared_memory=lambda: open("/dev/shm/outside", "w"),
            temporary=lambda: open("/tmp/outside", "w"),
            code=lambda: open(code, "a"),
            truncated=lambda: os.truncate(code, 0),
            truncated_while_reading=lambda: os.open(code, os.O_RDONLY | os.O_TRUNC),
            package=lambda: open(pathlib.Path(json.__file__).with_name("evil.py"), "w"),
            mode=lambda: os.chmod(key, 0o777),
            owner=lambda: os.chown(key, 12345, 12345),
            times=lambda: os.utime(key, (0, 0)),
            attribute=lambda: os.setxattr(code, "user.evil", b""),
            gone=lambda: os.unlink(key),
            moved=lambda: os.rename(key, "key"),
            linked=lambda: os.link(key, "key"),
        )
        """,
    )
    assert set(said.values()) <= REFUSED, said
    assert key.stat().st_mode & 0o777 == 0o600
    assert not (data / "scratch" / "outside").exists()


def test_its_own_folder_serves_all_that_a_program_does_with_files(sandbox, tmp_path):
    said = attempts(
        sandbox,
        tmp_path,
        """
        import shutil, tempfile
        os.makedirs("a/b")
        open("a/file", "w").close()
        tell(
            moved=lambda: os.replace("a/file", "a/b/file"),
            removed=lambda: shutil.rmtree("a"),
            temporary=lambda: tempfile.NamedTemporaryFile().write(b"x"),
            null=lambda: open("/dev/null", "w").write("x"),
            random=lambda: open("/dev/urandom", "rb").read(8),
        )
        """,
    )
    assert set(said.values()) == {"done"}


def test_the_environment_tells_nothing_of_the_service(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("WINNOW_DATABASE_URL", "postgresql://winnow:hush@db/winnow")
    said = ask(sandbox, tmp_path, "print(json.dumps(open('/proc/self/environ').read() + repr(dict(os.environ))))")
    assert "hush" not in said
    assert "WINNOW" not in said


def test_other_processes_are_neither_signalled_nor_read(sandbox, tmp_path):
    said = attempts(
        sandbox,
        tmp_path,
        f"""
        import ctypes
        supervisor = {os.getpid()}
        libc = ctypes.CDLL(None, use_errno=True)
        def call(*arguments):
            if libc.syscall(*arguments) < 0:
                raise OSError(ctypes.get_errno(), "refused")
        def prctl(*arguments):
            if libc.prctl(*arguments) < 0:
                raise OSError(ctypes.get_errno(), "refused")
        tell(
            signalled=lambda: os.kill(supervisor, 0),
            environment=lambda: open(f"/proc/{{supervisor}}/environ").read(),
            memory=lambda: open(f"/proc/{{supervisor}}/mem", "rb"),
            # Landlock shows that a descriptor is there, which is why this asks for what it leads to.
            file_names=lambda: os.readlink(f"/proc/{{supervisor}}/fd/0"),
            files=lambda: open(f"/proc/{{supervisor}}/fd/0"),
            root=lambda: os.listdir(f"/proc/{{supervisor}}/root/"),
            limits=lambda: __import__("resource").prlimit(supervisor, 7),
            untethered=lambda: prctl(1, 0, 0, 0, 0),
            own_session=os.setsid,
        )
        """,
    )
    assert set(said.values()) <= REFUSED, said


def test_the_kernels_side_doors_are_shut(sandbox, tmp_path):
    said = attempts(
        sandbox,
        tmp_path,
        """
        import ctypes, platform
        libc = ctypes.CDLL(None, use_errno=True)
        def act(number, *arguments):
            def call():
                if libc.syscall(number, *arguments) < 0:
                    raise OSError(ctypes.get_errno(), "refused")
            return call
        own = {"x86_64": dict(unshare=272, bpf=321, keyctl=250, memfd=319, ptrace=101, userfaultfd=323, mount=165)}
        own = own.get(platform.machine(), dict(unshare=97, bpf=280, keyctl=219, memfd=279, ptrace=117))
        acts = {name: act(number, 0, 0, 0, 0, 0) for name, number in own.items()}
        acts |= dict(io_uring=act(425, 8, ctypes.create_string_buffer(120)), pidfd_open=act(434, 1, 0), clone3=act(435))
        acts |= dict(fsopen=act(430, b"tmpfs", 0), user_namespace=act(own["unshare"], 0x10000000))
        tell(**acts)
        """,
    )
    assert said
    assert set(said.values()) <= {"PermissionError", "OSError"}, said


@pytest.mark.skipif(os.getuid() != 0, reason="root alone has powers to give up")
def test_of_roots_powers_only_reading_is_left(sandbox, tmp_path):
    body = """
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), status["CapPrm"], status["CapEff"]]))
    """
    users, groups, others, permitted, effective = ask(sandbox, tmp_path, body)
    assert set(users) == set(groups) != {0}
    assert others == []
    assert int(permitted, 16) == int(effective, 16) == 1 << 2  # CAP_DAC_READ_SEARCH


def test_memory_without_end_is_an_error_in_the_child(sandbox, tmp_path):
    body = """
    try:
        bytearray(1 << 35)
    except MemoryError:
        print("refused")
    """
    assert run(sandbox, tmp_path, body)[1] == ["refused"]


def test_memory_over_the_limit_ends_the_child(sandbox, tmp_path):
    body = """
    import time
    held = [b"x" * (64 << 20) for _ in range(20)]
    time.sleep(60)
    """
    exit_, _ = run(sandbox, tmp_path, body)
    assert exit_.out_of_memory
    assert exit_.excess == "memory"


def test_processes_without_end_end_the_child(sandbox, tmp_path):
    # It stops by itself, lest a missing wall take the machine along.
    body = """
    import time
    refusals, end = 0, time.monotonic() + 5
    while time.monotonic() < end:
        try:
            if os.fork() == 0:
                time.sleep(0.01)
        except BlockingIOError:
            refusals += 1
            if refusals == 1:
                print("refused")
            time.sleep(0.01)
    """
    began = time.monotonic()
    exit_, lines = run(sandbox, tmp_path, body)
    assert exit_.excess == "tasks"
    assert "refused" in lines  # by the kernel, before anybody looked
    assert time.monotonic() - began < 20
    assert all_gone(tmp_path)


def test_files_without_end_end_the_child(sandbox, tmp_path):
    body = """
    import time
    for number in range(100):
        with open(f"file{number}", "wb") as file:
            file.write(b"x" * (1 << 20))
    time.sleep(60)
    """
    assert run(sandbox, tmp_path, body)[0].excess == "disk"


def test_files_that_were_deleted_while_open_count(sandbox, tmp_path):
    body = """
    import time
    held = []
    for number in range(100):
        file = open("file", "wb")
        os.unlink("file")
        file.write(b"x" * (1 << 20))
        held.append(file)
    time.sleep(60)
    """
    assert run(sandbox, tmp_path, body)[0].excess == "disk"


def test_one_file_over_the_limit_is_an_error_in_the_child(sandbox, tmp_path):
    said = attempts(sandbox, tmp_path, 'tell(large=lambda: open("f", "wb").truncate(1 << 30))')
    assert said == {"large": "OSError"}
