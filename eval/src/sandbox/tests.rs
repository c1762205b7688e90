//! Programs that attack: none survives, harms or stalls the run. Nothing here is run without isolation.

use std::time::Instant;

use super::*;

fn limits() -> SandboxConfig {
    SandboxConfig { seconds: 2, memory_mb: 256, ..SandboxConfig::default() }
}

/// A sandbox of each kind that this machine has. Where it has none, programs have to be refused.
fn sandboxes() -> Vec<Sandbox> {
    let kinds = [Isolation::Namespaces, Isolation::Bubblewrap, Isolation::Landlock];
    let had: Vec<Sandbox> =
        kinds.into_iter().filter_map(|kind| Sandbox::with(kind, &limits()).ok()).collect();
    if had.is_empty() {
        assert!(matches!(Sandbox::open(&limits()), Err(SandboxError::NoIsolation { .. })));
    }
    had
}

/// How an attack has to end.
enum End {
    /// The program sees its attack fail and says `held`.
    Held,
    /// It is ended, for a reason with this in it.
    Killed(&'static str),
    /// Either.
    Any,
}

/// Tries what `attack` does, and says `held` if it is refused.
fn refused(attack: &str) -> String {
    let indented: String = attack.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "try:\n{indented}    print('done')\nexcept (OSError, EOFError, ValueError, MemoryError):\n    print('held')\n"
    )
}

fn attacks() -> Vec<(&'static str, String, End)> {
    use End::{Any, Held, Killed};
    let own = |text: &str| text.to_owned();
    let libc = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                def call(*a):\n    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), 'no')\n";
    vec![
        ("fork bomb", own("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"), Killed("")),
        ("thread bomb", refused("import threading, time\nfor _ in range(200): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
            .replace("OSError", "OSError, RuntimeError"), Held),
        ("fill memory", refused("kept = []\nwhile True: kept.append(bytearray(16 << 20))"), Held),
        ("fill memory by many", own("import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    b = bytearray(150 << 20)\n    time.sleep(60)\ntime.sleep(60)"), Any),
        ("fill the disk", refused("for i in range(64):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(8 << 20))"), Held),
        ("many small files", refused("for i in range(100000): open(f'/tmp/{i}', 'w').close()"), Held),
        ("a huge sparse file", refused("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nwith open('/tmp/s', 'wb') as f: f.truncate(1 << 40)"), Held),
        ("endless output", own("while True: print('x' * 1000)"), Killed("wrote more")),
        ("endless errors", own("import sys\nwhile True: sys.stderr.write('x' * 1000)"), Killed("wrote more")),
        ("sleep", own("import time\ntime.sleep(1000)"), Killed("took longer")),
        ("spin", own("while True: pass"), Killed("")),
        ("spin with signals ignored", own("import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nwhile True: pass"), Killed("")),
        ("sleep with output closed", own("import os, time\nos.close(1); os.close(2)\ntime.sleep(1000)"), Killed("took longer")),
        ("kill the parent", own("import os, signal\ntry:\n  if os.getppid() > 0: os.kill(os.getppid(), signal.SIGKILL); print('done')\n  else: print('held')\nexcept OSError: print('held')"), Held),
        ("read the home directory", refused("import os\nhome = os.path.expanduser('~root')\nprint(open('/root/.bashrc').read())"), Held),
        ("read the passwords", refused("open('/etc/shadow').read()"), Held),
        ("read the environment of the parent", refused("import os\nopen(f'/proc/{os.getppid()}/environ', 'rb').read()"), Held),
        ("read one's own memory map", refused("open('/proc/self/maps').read()"), Held),
        ("inherited secrets", own("import os\nprint('done' if 'CARGO' in os.environ or 'USER' in os.environ else 'held')"), Held),
        ("open a socket", refused("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)"), Held),
        ("listen", refused("import socket\nsocket.socket(socket.AF_UNIX).bind('/tmp/s')"), Held),
        ("write outside", refused("open('/usr/lib/jacobi-was-here', 'w')"), Held),
        ("write through a link", refused("import os\nos.symlink('/etc/hostname', '/tmp/link')\nopen('/tmp/link', 'w').write('x')"), Held),
        ("climb out by links", refused("import os\nos.symlink('../../../../../..', '/tmp/up')\nopen('/tmp/up/etc/passwd').read()"), Held),
        ("ptrace", refused(&format!("{libc}call(101, 16, 1, 0, 0)")), Held),
        ("zombies", own("import os\nfor _ in range(100):\n  try:\n    if os.fork() == 0: os._exit(0)\n  except OSError: pass\nprint('held')"), Held),
        ("a daemon", own("import os, time\ntry:\n  if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(1000)\n    os._exit(0)\nexcept OSError: pass\nprint('held')"), Held),
        ("a daemon that holds the output", own("import os, time\ntry:\n  if os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\nexcept OSError: pass\nprint('held', flush=True)\nos._exit(0)"), Held),
        ("many open files", refused("kept = [open('/dev/null') for _ in range(1000)]"), Held),
        ("read standard input", refused("input()"), Held),
        ("write into what others opened", refused("import os\nfor n in range(3, 1024): os.write(n, b'x')"), Held),
        ("become root", refused("import os\nos.setresuid(0, 0, 0)\nos.mkdir('/jacobi-was-here')"), Held),
        ("chroot", refused("import os\nos.chroot('/tmp')"), Held),
        ("new namespaces", refused(&format!("{libc}if libc.unshare(0x10000000) < 0: raise OSError('no')")), Held),
        ("mount", refused(&format!("{libc}if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) < 0: raise OSError('no')")), Held),
        ("shared memory", refused(&format!("{libc}if libc.shmget(0, 1 << 30, 0o1777) < 0: raise OSError('no')")), Held),
        ("memory as a file", refused("import os\nos.memfd_create('x')"), Held),
        ("raise the limits", refused("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"), Held),
        ("a device", refused("import os, stat\nos.mknod('/tmp/sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0))"), Held),
        ("crash the interpreter", own("import ctypes\nctypes.string_at(0)"), Killed("")),
        ("nest without end", own("def f(n): return f(n + 1)\nimport sys\nsys.setrecursionlimit(10**9)\nf(0)"), Killed("")),
        ("leave early and well", own("import os\nprint('held', flush=True)\nos._exit(0)"), Held),
    ]
}

#[test]
fn no_attack_survives_harms_or_stalls() {
    for sandbox in sandboxes() {
        for (name, program, end) in attacks() {
            let start = Instant::now();
            let ended = sandbox.run(&program).unwrap_or_else(|error| panic!("{name}: {error}"));
            let seconds = start.elapsed().as_secs_f64();
            let what = format!("{name} in {}: {ended:?} after {seconds:.1} s", sandbox.isolation());
            assert!(seconds < 8.0, "{what}");
            let said = |word: &str| matches!(&ended, ProgramEnd::Success { output } if output.contains(word));
            assert!(!said("done"), "{what}");
            match end {
                End::Held => assert!(said("held"), "{what}"),
                End::Killed(part) => {
                    assert!(matches!(&ended, ProgramEnd::Failure { why } if why.contains(part)), "{what}")
                }
                End::Any => assert!(!matches!(&ended, ProgramEnd::Success { .. }), "{what}"),
            }
            assert_eq!(survivors(), Vec::<String>::new(), "{what}");
        }
        // Nothing of all that is in the way of the next.
        let ended = sandbox.run("print(sum(range(10)))").unwrap();
        assert_eq!(ended, ProgramEnd::Success { output: "45\n".to_owned() });
    }
    assert!(!Path::new("/usr/lib/jacobi-was-here").exists() && !Path::new("/jacobi-was-here").exists());
}

/// Processes that started in a cell and still live: theirs is the interpreter with `-s -B -`.
fn survivors() -> Vec<String> {
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs_err::read(entry.path().join(name)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let parent =
            status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim().to_owned();
        if command.trim_end().ends_with("-s -B -") && (parent == me || parent == "1") {
            found.push(command);
        }
    }
    found
}

#[test]
fn honest_programs_have_what_they_need() {
    let rows = [
        ("print('hi')", "hi\n"),
        ("open('/tmp/x', 'w').write('a')\nprint(open('/tmp/x').read())", "a\n"),
        ("import json, re, math, itertools, collections, hashlib\nprint(math.gcd(12, 18))", "6\n"),
        ("import threading\nt = threading.Thread(target=lambda: print('t'))\nt.start()\nt.join()", "t\n"),
        ("import random\nrandom.seed(1)\nprint(sorted({'b', 'a'}))", "['a', 'b']\n"),
        ("print('é', len(input.__doc__) > 0)", "é True\n"),
    ];
    for sandbox in sandboxes() {
        // Landlock alone gives no directory to write to.
        let writes = sandbox.isolation() != Isolation::Landlock;
        for (program, expected) in rows.iter().filter(|(program, _)| writes || !program.contains("/tmp")) {
            let ended = sandbox.run(program).unwrap();
            assert_eq!(ended, ProgramEnd::Success { output: (*expected).to_owned() }, "{program}");
        }
    }
}

#[test]
fn the_end_of_a_program_is_described_in_one_line() {
    let limits = || SandboxConfig { allow_unsafe_execution: true, ..limits() };
    let sandbox = Sandbox::open(&SandboxConfig { seconds: 1, ..limits() }).unwrap();
    let rows = [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("import sys\nsys.exit(3)", "exit code 3"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import time\ntime.sleep(60)", "took longer than 1 s"),
    ];
    for (program, expected) in rows {
        assert_eq!(
            sandbox.run(program).unwrap(),
            ProgramEnd::Failure { why: expected.to_owned() },
            "{program}"
        );
    }
    let small = Sandbox::open(&SandboxConfig { memory_mb: 64, ..limits() }).unwrap();
    let large = Sandbox::open(&SandboxConfig { memory_mb: 512, ..limits() }).unwrap();
    let program = "b = bytearray(128 << 20)\nprint(len(b))";
    assert_eq!(small.run(program).unwrap(), ProgramEnd::Failure { why: "MemoryError".to_owned() });
    assert!(matches!(large.run(program).unwrap(), ProgramEnd::Success { .. }));
}

#[test]
fn without_isolation_programs_run_only_on_request() {
    let nowhere = SandboxConfig { python: "/nowhere/python3".into(), ..limits() };
    let message = Sandbox::open(&nowhere).unwrap_err().to_string();
    assert!(message.contains("/nowhere/python3") && message.contains("eval.sandbox.python"), "{message}");
    let other = SandboxConfig { python: "/bin/true".into(), ..limits() };
    assert!(matches!(Sandbox::open(&other), Err(SandboxError::BadPython { .. })));
    // A harmless program, and limits all the same.
    let bare = Sandbox::with(Isolation::None, &SandboxConfig { seconds: 1, ..limits() }).unwrap();
    assert_eq!(bare.run("print('hi')").unwrap(), ProgramEnd::Success { output: "hi\n".to_owned() });
    assert!(matches!(bare.run("import time\ntime.sleep(60)").unwrap(), ProgramEnd::Failure { .. }));
    let secret = "import os\nprint(sorted(k for k in os.environ if 'CARGO' in k))";
    assert_eq!(bare.run(secret).unwrap(), ProgramEnd::Success { output: "[]\n".to_owned() });
    let strongest = Sandbox::open(&SandboxConfig { allow_unsafe_execution: true, ..limits() }).unwrap();
    assert_eq!(strongest.isolation() == Isolation::None, sandboxes().is_empty());
}
