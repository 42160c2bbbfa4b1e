//! The built binary: what it says, where it says it, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `LBNODE_BIN`, or the `lbnode` in the target directory that this test was built into.
fn lbnode() -> Command {
    let binary = std::env::var_os("LBNODE_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("lbnode")
    });
    assert!(binary.exists(), "{} is missing: `cargo build -p node` first, or set LBNODE_BIN", binary.display());
    let mut command = Command::new(binary);
    command.env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = lbnode().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

fn case(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/bad").join(name).display().to_string()
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/plain").join(name).display().to_string()
}

#[test]
fn check_says_which_file_is_which_and_that_they_are_good() {
    let (code, out, err) = run(&["check", &example("node.toml"), &example("cluster.toml")]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("node file of `lb-a`") && out.contains("cluster file of `plain`"), "{out}");
}

#[test]
fn check_reports_five_mistakes_with_64_and_on_stderr() {
    let file = case("five-mistakes.cluster.toml");
    let (code, out, err) = run(&["check", &file]);
    assert_eq!((code, out.as_str()), (64, ""));
    for place in ["6:8", "10:8", "11:19", "15:1", "17:53"] {
        assert!(err.contains(&format!("{file}:{place}: ")), "{place} is not in\n{err}");
    }
    assert!(err.contains("cluster file with 5 mistakes"), "{err}");
    assert!(!err.contains('\x1b'), "colours without a terminal:\n{err:?}");
}

#[test]
fn check_reports_mistakes_for_programs_too() {
    let (code, out, _) = run(&["check", "--json", &case("five-mistakes.cluster.toml")]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, found["ok"].as_bool()), (64, Some(false)));
    let errors = found["files"][0]["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["line"], &errors[0]["column"]), (5, &6.into(), &8.into()));
}

#[test]
fn check_of_a_missing_file_names_it_and_the_reason() {
    let (code, _, err) = run(&["check", "/nonexistent/cluster.toml"]);
    assert_eq!(code, 64);
    assert!(err.contains("cannot read /nonexistent/cluster.toml: No such file"), "{err}");
}

#[test]
fn without_an_agent_each_remote_command_says_so_with_69() {
    let file = example("cluster.toml");
    let commands: [&[&str]; 10] = [
        &["status"],
        &["config", "show"],
        &["config", "apply", &file],
        &["maintenance", "on"],
        &["failover", "--vip", "mail"],
        &["events", "-f"],
        &["cert", "list"],
        &["cert", "check"],
        &["list", "show"],
        &["list", "add", "admins", "10.0.0.0/8"],
    ];
    for command in commands {
        let (code, out, err) = run(&[&["--control", "/nonexistent/control.sock"], command].concat());
        assert_eq!((code, out.as_str()), (69, ""), "{command:?}");
        assert!(err.contains("/nonexistent/control.sock") && err.contains("lbnode run"), "{err}");
    }
}

#[test]
fn what_makes_no_sense_ends_with_2() {
    for arguments in [&["stauts"] as &[&str], &[], &["maintenance", "perhaps"], &["--lab", "c", "status"]] {
        assert_eq!(run(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn the_hidden_commands_refuse_what_was_not_inherited() {
    let (code, _, err) = run(&["guard", "--channel-fd", "977"]);
    assert_eq!(code, 2);
    assert!(err.contains("977 was not inherited"), "{err}");
}

#[test]
fn completions_and_man_pages_come_from_the_same_definitions() {
    let (code, bash, _) = run(&["completions", "bash"]);
    assert!(code == 0 && bash.contains("maintenance"), "{bash}");
    let (code, page, _) = run(&["man"]);
    assert!(code == 0 && page.contains(".TH lbnode"), "{page}");
    assert!(!page.contains("proxy\\-core"), "a hidden command is in the man page");
}
