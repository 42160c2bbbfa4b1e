//! What a part uses: processor time and memory of a process and everything that descends from it, from /proc.

use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

/// A process, and when it began: its number alone may come back as somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub pid: Pid,
    began: u64,
}

/// Processor time, of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// In its own code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl Time {
    /// Both.
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Time) -> Time {
        Time { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }
}

impl Identity {
    /// Whether it still runs.
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.began == self.began && !matches!(stat.state, 'Z' | 'X'))
    }
}

/// Processor time of a process and its descendants so far; those that ended are not in it.
pub fn processor_time(pid: Pid) -> Time {
    let tick = ticks_per_second();
    let mut sum = Time::default();
    for stat in family(pid).filter_map(stat) {
        sum.user += Duration::from_secs_f64(stat.user as f64 / tick);
        sum.system += Duration::from_secs_f64(stat.system as f64 / tick);
    }
    sum
}

/// Resident memory of a process and its descendants that is theirs alone, in bytes: anonymous pages.
/// Pages of files are shared with others and say nothing about load.
pub fn memory(pid: Pid) -> u64 {
    family(pid).map(|pid| status_kib(pid, "RssAnon:") * 1024).sum()
}

/// Everything that descends from a process.
pub fn descendants(pid: Pid) -> Vec<Identity> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<Stat> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|number| stat(Pid::from_raw(number)))
        .collect();
    let (mut found, mut parents) = (Vec::new(), vec![pid]);
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|stat| stat.parent == parent) {
            found.push(Identity { pid: child.pid, began: child.began });
            parents.push(child.pid);
        }
    }
    found
}

fn family(pid: Pid) -> impl Iterator<Item = Pid> {
    std::iter::once(pid).chain(descendants(pid).into_iter().map(|child| child.pid))
}

/// Some of /proc/PID/stat (proc(5)).
struct Stat {
    pid: Pid,
    state: char,
    parent: Pid,
    user: u64,
    system: u64,
    began: u64,
}

fn stat(pid: Pid) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; what follows it begins with field 3.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        pid,
        state: fields.first()?.chars().next()?,
        parent: Pid::from_raw(i32::try_from(number(4)?).ok()?),
        user: number(14)?,
        system: number(15)?,
        began: number(22)?,
    })
}

fn status_kib(pid: Pid, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn ticks_per_second() -> f64 {
    sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |ticks| ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_a_descendant_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let found = descendants(Pid::this()).into_iter().find(|found| found.pid == pid).expect("it was started here");
        assert!(found.lives());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!found.lives());
    }

    #[test]
    fn time_and_memory_of_this_process_are_above_zero() {
        let mut burnt = 0_u64;
        while processor_time(Pid::this()).total() < Duration::from_millis(30) {
            burnt = std::hint::black_box(burnt.wrapping_mul(31).wrapping_add(7));
        }
        assert!(memory(Pid::this()) > 64 * 1024);
    }
}
