//! A machine for one test.
//!
//! The test harness runs the test in its own process, as ever. There, [`run`] starts the same executable once more,
//! asking it for that one test, in new network, mount, process and host name namespaces, and, when the caller is not root,
//! in a new user namespace with the caller as its root. In that second process [`run`] finds itself inside the
//! lab and calls the body. So tests share nothing, whatever runs them side by side, and what a test leaves behind
//! (interfaces, rules, daemons) ends with it: all processes of the lab die with its first one, and the kernel takes
//! the namespaces down after them.
//!
//! Inside: `lo` is up and nothing else exists; `/run` is an empty tmpfs with `/run/netns` and `/run/lock`; mounts
//! stay inside; `/proc` shows only the processes of the lab. The first process is a shell, which collects orphans as
//! an init would: a daemon that dies is gone, not a zombie. The rest of the file system is the machine's own.
//!
//! Where namespaces cannot be made, a test fails. With `TEST_SKIP_PRIVILEGED=1` it passes, and one line
//! `skipped: <test>: <why>` goes to standard error past the harness's capture, for counting. The same holds for a test
//! that wants more than a lab has everywhere ([`run_with_users`]).

use std::any::type_name;
use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount, umount};

use crate::netns::Netns;
use crate::program::{Finished, Program};

/// The name of the test whose lab the process is in.
const INSIDE: &str = "TEST_LAB";

/// The second process says so once it has found its test: a run that ended well without it has tested nothing.
const ENTERED: &str = "@lab: entered";

/// A test that takes longer hangs. On an emulated processor, or with all the bytes that endurance takes, it may take longer:
/// so many seconds as the variable [`LIMIT_VARIABLE`] says.
const LIMIT: Duration = Duration::from_secs(300);

/// See [`LIMIT`].
const LIMIT_VARIABLE: &str = "TEST_LAB_SECONDS";

/// Runs `body`, which must be a closure written directly in the test function, in a lab of its own. Panics when it
/// fails.
pub fn run<F>(body: F)
where
    F: FnOnce(&Host) -> Result<()>,
{
    run_unless(|| None, body);
}

/// The same for a test that becomes another user, which only the machine's root can: any other caller is the only user
/// of his labs.
pub fn run_with_users<F>(body: F)
where
    F: FnOnce(&Host) -> Result<()>,
{
    run_unless(lacks_users, body);
}

/// Unless something is lacking: what, and why.
fn run_unless<F>(lacks: fn() -> Option<(&'static str, &'static str)>, body: F)
where
    F: FnOnce(&Host) -> Result<()>,
{
    let test = test_of(type_name::<F>());
    if std::env::var(INSIDE).is_ok_and(|name| name == test) {
        writeln!(std::io::stdout(), "{ENTERED}").expect("the outer process reads this");
        let host = Host::set_up().unwrap_or_else(|error| panic!("no lab: {error:?}"));
        if let Err(error) = body(&host) {
            panic!("{error:?}");
        }
        return;
    }
    if let Some((what, why)) = lacks() {
        assert!(
            may_skip(),
            "{test}: no {what}: {why} (TEST_SKIP_PRIVILEGED=1 skips such tests)"
        );
        return skip(test, what, why);
    }
    let finished = start(test).unwrap_or_else(|error| panic!("{test}: {error:?}"));
    let entered = finished.stdout.contains(ENTERED);
    if !entered && may_skip() {
        return skip(test, "namespaces", finished.stderr.trim());
    }
    show(test, &finished);
    assert!(
        entered,
        "{test}: cannot make its namespaces, or the harness has no test of this name \
         (TEST_SKIP_PRIVILEGED=1 skips such tests)"
    );
    assert!(finished.success(), "{test} failed in its lab, see above");
}

/// Whether this is the second process of a test, inside its lab.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn skip(test: &str, what: &str, why: &str) {
    // The handle, not the macro: the harness captures only the macros.
    writeln!(std::io::stderr(), "skipped: {test}: no {what}: {why}")
        .expect("standard error can be written");
}

fn lacks_users() -> Option<(&'static str, &'static str)> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let others = nix::unistd::geteuid().is_root() && maps(&map, 1);
    (!others).then_some(("other users", "they are not mapped"))
}

/// Whether a map of user namespaces (user_namespaces(7)) has this user.
fn maps(map: &str, user: u64) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&user)
    })
}

fn limit() -> Duration {
    let seconds = std::env::var(LIMIT_VARIABLE).ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    seconds.map_or(LIMIT, Duration::from_secs)
}

fn may_skip() -> bool {
    std::env::var("TEST_SKIP_PRIVILEGED").is_ok_and(|value| value == "1")
}

/// `crate::module::test::{{closure}}` is the closure's type, `module::test` what the harness calls the test.
fn test_of(closure: &'static str) -> &'static str {
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    function
        .split_once("::")
        .map_or(function, |(_crate, test)| test)
}

fn start(test: &str) -> Result<Finished> {
    let mut unshare = Program::new("unshare").args([
        "--net",
        "--mount",
        if is_mount_point("/")? {
            "--propagation=private"
        } else {
            "--propagation=unchanged" // in a chroot; `Host::set_up` sees to it
        },
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    if !nix::unistd::geteuid().is_root() {
        unshare = unshare.args(["--user", "--map-root-user"]);
    }
    let this = std::env::current_exe().context("the path of the test program")?;
    unshare
        // Whoever runs the tests may ignore signals, for example by nohup.
        .args(["env", "--default-signal"])
        .args(["sh", "-c", r#""$@"; exit $?"#, "lab"])
        .arg(this)
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(INSIDE, test)
        .env("RUST_TEST_THREADS", "1")
        .env("RUST_BACKTRACE", "0") // the error's chain and the script that failed say more
        .timeout(limit())
        .run()
}

/// The line of `/proc/self/mountinfo` about what is mounted on top at `path`.
fn mount_info(path: &str) -> Result<Option<String>> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    let found = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path));
    Ok(found.map(ToOwned::to_owned))
}

fn is_mount_point(path: &str) -> Result<bool> {
    Ok(mount_info(path)?.is_some())
}

/// Passes on what the test printed, without the words of the inner harness.
fn show(test: &str, finished: &Finished) {
    let name = format!("test {test} ... ");
    for line in finished.stdout.lines().chain(finished.stderr.lines()) {
        let line = line.strip_prefix(&name).unwrap_or(line);
        let harness = ["running 1 test", "test result: ", "test failed, "];
        let result = ["", "ok", "FAILED", "failures:", ENTERED];
        if !harness.iter().any(|start| line.starts_with(start)) && !result.contains(&line.trim()) {
            print_captured(line);
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "only the macro prints where the harness shows a failed test's output"
)]
fn print_captured(line: &str) {
    println!("{line}");
}

/// The machine that a test runs on: the network namespace of the lab, and what surrounds it.
#[derive(Debug)]
pub struct Host {
    ns: Netns,
}

impl Host {
    /// The names and addresses of the wire to [`Self::outside`].
    pub const UPLINK: &str = "uplink";
    /// The host's IPv4 address on the uplink.
    pub const V4: &str = "192.0.2.1";
    /// The host's IPv6 address on the uplink.
    pub const V6: &str = "2001:db8:5::1";
    /// The outside machine's IPv4 address.
    pub const OUTSIDE_V4: &str = "192.0.2.2";
    /// The outside machine's IPv6 address.
    pub const OUTSIDE_V6: &str = "2001:db8:5::2";

    fn set_up() -> Result<Self> {
        mount(
            Some("lab"),
            "/run",
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=755"),
        )
        .context("cannot mount a tmpfs on /run")?;
        if mount_info("/run")?.is_some_and(|mount| mount.contains(" shared:")) {
            umount("/run").context("cannot take the tmpfs back")?;
            bail!(
                "this chroot is on a shared mount, where a lab's mounts would show outside: \
                 make its directory a mount of its own, and private"
            );
        }
        for directory in ["/run/netns", "/run/lock", "/run/lab"] {
            fs::create_dir(directory).with_context(|| format!("cannot create {directory}"))?;
        }
        let host = Self { ns: Netns::own() };
        host.sh("ip link set lo up")?;
        Ok(host)
    }

    /// A container's network namespace: empty, bound at `/run/netns/<name>`, gone when dropped.
    pub fn container(&self, name: &str) -> Result<Netns> {
        Netns::create(name)
    }

    /// Another machine, wired to this one and the only way to the rest of the world. Each has the addresses above
    /// and the other as its default route; both answer at once (no duplicate address detection).
    pub fn outside(&self) -> Result<Netns> {
        let outside = Netns::create("outside")?;
        let uplink = Self::UPLINK;
        self.sh(&format!(
            "ip link add {uplink} type veth peer name eth0 netns outside
             ip addr add {}/24 dev {uplink}
             ip addr add {}/64 dev {uplink} nodad
             ip link set {uplink} up",
            Self::V4,
            Self::V6
        ))?;
        outside.sh(&format!(
            "ip addr add {}/24 dev eth0
             ip addr add {}/64 dev eth0 nodad
             ip link set lo up
             ip link set eth0 up
             ip route add default via {}
             ip route add default via {}",
            Self::OUTSIDE_V4,
            Self::OUTSIDE_V6,
            Self::V4,
            Self::V6
        ))?;
        self.sh(&format!(
            "ip route add default via {}; ip route add default via {}",
            Self::OUTSIDE_V4,
            Self::OUTSIDE_V6
        ))?;
        Ok(outside)
    }

    /// An empty directory of the lab for state files.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = PathBuf::from("/run/lab").join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }
}

/// The host is also a namespace: commands, servers and questions run in it the same way.
impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_names_its_test() {
        assert_eq!(
            test_of("it::ports::udp_reaches::{{closure}}"),
            "ports::udp_reaches"
        );
        assert_eq!(test_of("kernel::veth::{{closure}}::{{closure}}"), "veth");
    }

    #[test]
    fn a_lab_is_empty_and_has_its_own_processes() {
        run(|host| {
            assert_eq!(host.sh("ls /run")?, "lab\nlock\nnetns\n");
            assert_eq!(host.sh("ip -br link | wc -l")?.trim(), "1");
            assert_eq!(host.sh("cat /proc/1/comm")?.trim(), "sh");
            Ok(())
        });
    }

    #[test]
    fn who_else_is_there() {
        assert!(maps("         0          0 4294967295\n", 1));
        assert!(maps("0 1000 1\n1 100000 65536\n", 1));
        assert!(!maps("         0       1000          1\n", 1));
        assert!(!maps("", 1));
    }

    #[test]
    #[should_panic(expected = "no luck: it is Friday")]
    fn a_lack_is_a_failure_or_skipped_aloud() {
        run_unless(|| Some(("luck", "it is Friday")), |_| Ok(()));
        assert!(!may_skip(), "no luck: it is Friday: skipped");
    }

    #[test]
    #[should_panic(expected = "failed in its lab")]
    fn a_failure_inside_is_a_failure_outside() {
        run(|host| host.sh("false").map(drop));
        assert!(!may_skip(), "nothing failed in its lab: it was skipped");
    }
}
