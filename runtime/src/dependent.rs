//! A process that dies with us, however we die: the embedded broker, and the roles of the demo.

use std::{
    env,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The shell turns into the program (`exec`), so that our child is the program itself: its exit status and signals are
/// direct. Before that it leaves a watchdog behind that reads from a pipe held by us alone. A line means that the
/// program ended under our eyes. The end of the pipe means that we are gone, however that came: it kills the program
/// and removes the temporary folder. `$$` is the shell's process id, which `exec` keeps. Written before the program
/// starts, so that there is no moment without it.
const LAUNCH: &str = r#"
temporary=$1; shift
exec 3<&0 </dev/null
(
  if ! read -r _ <&3; then
    kill -9 $$
    tries=0
    while [ -n "$temporary" ] && [ -e "$temporary" ] && [ $tries -lt 50 ]; do
      rm -rf "$temporary"; tries=$((tries + 1)); sleep 0.1
    done
  fi
) &
exec 3<&-
exec "$@"
"#;

/// A process that dies with us.
#[derive(Debug)]
pub struct Dependent {
    child: Child,
    watchdog: Option<ChildStdin>,
}

impl Dependent {
    /// Runs a program with its output appended to `log`; `temporary` is removed if we die.
    ///
    /// # Errors
    /// The log can not be opened, or there is no shell.
    pub fn launch<S: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        log: &Path,
        temporary: Option<&Path>,
    ) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = without_settings(&mut Command::new("/bin/sh"))
            .args(["-c", LAUNCH, "keyferry-watchdog"])
            .arg(temporary.unwrap_or(Path::new("")))
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal reaches the whole group: it is ours to handle, and to stop the child in order.
            .process_group(0)
            .spawn()?;
        let watchdog = child.stdin.take();
        Ok(Self { child, watchdog })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. It must not have ended before: its number may belong to another process by then.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// How it ended, if it did. Does not block.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Blocks until it ends by itself.
    ///
    /// # Errors
    /// The system does not say.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// `SIGKILL`; blocks until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.wait().map(drop)
    }

    /// `SIGTERM`, and `SIGKILL` if that took longer than `limit`; blocks until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn terminate(mut self, limit: Duration) -> io::Result<()> {
        // Asking first reaps a child that is gone already, whose number may belong to another process by now.
        if self.ended()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if self.ended()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.kill()
    }
}

impl Drop for Dependent {
    fn drop(&mut self) {
        // All ways out end here. Whoever waited has reaped the child and `kill` does nothing; an early return on an
        // error has not.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(mut pipe) = self.watchdog.take() {
            let _ = pipe.write_all(b"done\n");
        }
    }
}

/// Takes every `KEYFERRY_*` out of the environment of a program to be started: what an operator has exported is for the
/// roles on his own cluster, and would go before the configuration that it is started with.
pub fn without_settings(command: &mut Command) -> &mut Command {
    let names = env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("KEYFERRY_")) {
        command.env_remove(name);
    }
    command
}

/// What a log says in its end about why, in one line: the last errors if there are any, else the last lines. Only
/// what stands behind `from` bytes counts, the rest is of earlier runs. Stack traces are left out.
#[must_use]
pub fn last_lines(log: &Path, from: u64) -> String {
    const LINES: usize = 4;
    let text = fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(0);
    let text = String::from_utf8_lossy(text.get(from..).unwrap_or_default());
    let telling = |line: &&str| !line.trim().is_empty() && !line.starts_with(char::is_whitespace);
    let error = |line: &&str| line.contains("ERROR") || line.contains("Exception");
    let pick = |wanted: &dyn Fn(&&str) -> bool| {
        text.lines().rev().filter(telling).filter(wanted).take(LINES).collect::<Vec<_>>()
    };
    let mut last = pick(&error);
    if last.is_empty() {
        last = pick(&|_| true);
    }
    last.reverse();
    last.join(" | ")
}
