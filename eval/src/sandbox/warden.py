"""Runs one Python program in the cell that its argument describes and says on standard output how it ended.

The warden stays outside: it forks the cell, watches time, memory and output, and kills what is left. The program comes
on standard input. Follows kernel.py in one text.
"""
import json
import resource
import select
import signal
import time

ASK = json.loads(sys.argv[1])
LEVEL = ASK["level"]
SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives"]
DEVICES = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
# Nobody has it, so that the limit on processes counts the program's alone.
UNUSED_ID, NOBODY = 2_000_000_000 + os.getpid(), 65534


def readable():
    """What the interpreter needs, each path once, with the links that lead there."""
    paths = list(SYSTEM)
    for path in [sys.base_prefix, sys.prefix, os.path.dirname(os.path.realpath(sys.executable))]:
        for spelling in (path, os.path.realpath(path)):
            if not any(spelling == known or spelling.startswith(known + "/") for known in paths):
                paths.append(spelling)
    return [path for path in paths if os.path.lexists(path)]


def private_root():
    """A root of its own: the interpreter read-only, a small temporary directory, nothing else."""
    unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    root = ASK["scratch"]
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in readable() + DEVICES:
        show(path, root + path)
    for place in ("/tmp", "/outside"):
        os.mkdir(root + place)
    mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={ASK['disk']},nr_inodes=4096,mode=1777")
    pivot_root(root, root + "/outside")
    os.chdir("/")
    umount("/outside")
    os.rmdir("/outside")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def show(path, target):
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(path, target, None, MS_BIND | MS_REC)
    # Flags of the original are locked for whoever is not root.
    kept = os.statvfs(path).f_flag
    spellings = [(os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC)]
    spellings += [(os.ST_NOATIME, MS_NOATIME), (os.ST_NODIRATIME, MS_NODIRATIME), (os.ST_RELATIME, MS_RELATIME)]
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY
    for seen, flag in spellings:
        flags |= flag if kept & seen else 0
    mount(None, target, None, flags)


def lock_in():
    """Everything that holds whatever the level: another user, limits, no way back."""
    for kind, value in [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, ASK["disk"]),
        (resource.RLIMIT_NOFILE, ASK["files"]),
        (resource.RLIMIT_NPROC, ASK["processes"]),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_AS, ASK["memory"]),
        (resource.RLIMIT_CPU, ASK["seconds"]),
    ]:
        resource.setrlimit(kind, (value, value))
    if os.geteuid() == 0 and (LEVEL == "namespaces" or all(map(open_to_all, (sys.executable, sys.base_prefix)))):
        become_nobody()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    drop_capabilities()
    if LEVEL == "landlock":
        landlock(readable() + DEVICES)
    if LEVEL in ("namespaces", "landlock"):
        install_seccomp(seccomp_filter(alone=LEVEL == "landlock"))


def open_to_all(path):
    """Whether another user gets there: an interpreter in root's home would be out of its reach."""
    path = os.path.realpath(path)
    return path == "/" or (os.stat(path).st_mode & 0o001 and open_to_all(os.path.dirname(path)))


def become_nobody():
    os.setgroups([])
    for number in (UNUSED_ID, NOBODY):
        try:
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
            return
        except OSError:
            # A container that knows only its first ids.
            continue
    raise OSError(errno.EPERM, "no unprivileged user to become")


def cell(source, output, status):
    """Becomes the program. Returns only by an error."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    python = [sys.executable, "-s", "-B", "-"]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0",
                   "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = python
    if LEVEL == "namespaces":
        private_root()
    if LEVEL == "bubblewrap":
        command = bubblewrap(python)
    if LEVEL == "none":
        environment["HOME"] = environment["TMPDIR"] = ASK["scratch"]
    os.chdir(ASK["scratch"] if LEVEL in ("none", "bubblewrap") else "/tmp" if LEVEL == "namespaces" else "/")
    lock_in()
    for here, there in ((source, 0), (output, 1), (output, 2)):
        os.dup2(here, there)
    os.closerange(3, status)
    if LEVEL == "bubblewrap":
        # It reads the refused system calls from here and closes it.
        refused = os.memfd_create("seccomp", 0)
        os.write(refused, seccomp_filter(alone=False))
        os.lseek(refused, 0, os.SEEK_SET)
        os.dup2(refused, 3)
    os.closerange(status + 1, 1024)
    os.execve(command[0], command, environment)


def bubblewrap(python):
    """The same cell made by bwrap, whose file may have a permission that we have not."""
    command = [ASK["bwrap"], "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--seccomp", "3"]
    for path in readable():
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for path in DEVICES:
        command += ["--dev-bind", path, path]
    return command + ["--size", str(ASK["disk"]), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"] + python


def descendants():
    """The processes that come from here, each with its memory in bytes."""
    parents, sizes, page = {}, {}, os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        parents[int(name)], sizes[int(name)] = int(fields[1]), int(fields[21]) * page
    found = {os.getpid()}
    grown = True
    while grown:
        more = {number for number, parent in parents.items() if parent in found and number not in found}
        found |= more
        grown = bool(more)
    return {number: sizes[number] for number in found if number != os.getpid()}


def supervise(child, output):
    """Waits for the end of the cell, or brings it about. How it ended, its status, the end of its output."""
    start, weighed, seen, tail, how = time.monotonic(), 0.0, 0, b"", None
    poll = select.poll()
    poll.register(output, select.POLLIN | select.POLLHUP)
    while how is None:
        ready = poll.poll(20)
        data = os.read(output, 65536) if ready else None
        if data:
            seen += len(data)
            tail = (tail + data)[-ASK["tail"]:]
        now = time.monotonic()
        if seen > ASK["output"]:
            how = "output"
        elif now - start > ASK["seconds"]:
            how = "time"
        elif data == b"" or os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            how = "exited"
        elif now - weighed > 0.05:
            weighed = now
            how = "memory" if sum(descendants().values()) > ASK["memory"] else None
    if how == "exited":
        # Output closed early, or a last word of it still in the pipe.
        while poll.poll(0) and (data := os.read(output, 65536)) and seen <= ASK["output"]:
            seen, tail = seen + len(data), (tail + data)[-ASK["tail"]:]
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() - start > ASK["seconds"]:
                how = "time"
                break
            time.sleep(0.002)
    return how, end(child), tail


def end(child):
    """Kills the cell and whoever it left behind; its status."""
    os.kill(child, signal.SIGKILL)
    _, status, _ = os.wait4(child, 0)
    while left := descendants():
        for number in left:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(0.002)
    return status


def main():
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    source = os.memfd_create("program", 0)
    with open(source, "wb", closefd=False) as file:
        file.write(sys.stdin.buffer.read())
    os.lseek(source, 0, os.SEEK_SET)
    (output, written), (status, failed) = os.pipe(), os.pipe()
    os.set_inheritable(failed, False)
    if LEVEL == "namespaces":
        outer = (os.geteuid(), os.getegid())
        unshare(CLONE_NEWPID | (CLONE_NEWUSER if outer[0] else 0))
        if outer[0]:
            for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {outer[0]} 1"), ("gid_map", f"1000 {outer[1]} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
    child = os.fork()
    if child == 0:
        try:
            cell(source, written, failed)
        except BaseException as error:
            os.write(failed, str(error).encode()[:1000])
        os._exit(127)
    os.close(written)
    os.close(failed)
    os.close(source)
    how, code, tail = supervise(child, output)
    setup = os.read(status, 1000).decode(errors="replace")
    if setup:
        return {"how": "setup", "detail": setup}
    if how == "exited" and os.WIFSIGNALED(code):
        return {"how": "signal", "number": os.WTERMSIG(code), "tail": tail.decode(errors="replace")}
    return {"how": how, "code": os.WEXITSTATUS(code), "tail": tail.decode(errors="replace")}


try:
    ANSWER = main()
except OSError as error:
    ANSWER = {"how": "setup", "detail": str(error)}
print(json.dumps(ANSWER))
