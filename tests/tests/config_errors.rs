//! Bad configuration files and every mistake that must be found in them.
//!
//! `cases/bad/NAME.{node,cluster}.toml` is read; `NAME.*.errors` beside it has one `line:column: message` a line.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use node::config::{ConfigError, load_cluster, load_node, parse_cluster, parse_node, routers};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/bad")
}

fn mistakes(error: &ConfigError) -> Vec<String> {
    match error {
        ConfigError::Invalid(found) => {
            found.iter().map(|one| format!("{}:{}: {}", one.line, one.column, one.message)).collect()
        }
        ConfigError::Read { .. } => panic!("{error}"),
    }
}

#[test]
fn every_mistake_of_a_file_is_reported_at_its_place() {
    let mut read = BTreeSet::new();
    let mut wrong = String::new();
    for entry in fs::read_dir(cases()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".toml") {
            continue;
        }
        let found = if name.ends_with(".node.toml") { load_node(&path).err() } else { load_cluster(&path).err() };
        let found = found.map(|error| mistakes(&error).join("\n")).unwrap_or_default();
        let expected = fs::read_to_string(path.with_extension("errors")).unwrap();
        if found.trim() != expected.trim() {
            wrong += &format!("--- {name}: expected\n{expected}--- found\n{found}\n");
        }
        read.insert(name);
    }
    assert!(read.len() >= 5, "only {read:?} were read");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn five_mistakes_are_five_errors() {
    let error = load_cluster(&cases().join("five-mistakes.cluster.toml")).unwrap_err();
    assert_eq!(mistakes(&error).len(), 5, "{error}");
}

#[test]
fn an_error_shows_the_line_and_marks_what_is_meant() {
    let text = "[pair]\nname = \"x\"\n[frontend.a]\nmode = \"tcp\"\nbind = \"*:80\"\ndefault_backend = \"b\"\n";
    let shown = parse_cluster("c.toml", text).unwrap_err().to_string();
    let expected = "c.toml:6:19: unknown backend `b`\n  6 | default_backend = \"b\"\n    |                   ^^^";
    assert_eq!(shown, expected);
}

/// A cluster file with two VIPs of these VRIDs, and a node file with this `[vrrp.vip]` part.
fn together(vrids: (u8, u8), overrides: &str) -> Vec<String> {
    let cluster = format!(
        "[pair]\nname = \"x\"\n[vip.a]\naddress = \"10.0.0.1\"\nvrid = {}\n[vip.b]\naddress = \"10.0.0.2\"\nvrid = {}\n\
         [frontend.f]\nmode = \"tcp\"\nbind = \"a:80\"\ndefault_backend = \"s\"\n\
         [backend.s]\nmode = \"tcp\"\nservers = [{{ name = \"s\", address = \"192.0.2.1:80\" }}]\n",
        vrids.0, vrids.1
    );
    let node = format!("name = \"n\"\nbootstrap = \"c\"\n[vrrp]\ninterface = \"eth0\"\npriority = 100\n{overrides}");
    let cluster = parse_cluster("c.toml", &cluster).unwrap();
    let node = parse_node("n.toml", &node, Path::new("/etc")).unwrap();
    let found = routers(&node, &cluster).err().unwrap_or_default();
    found.iter().map(|one| format!("{}: {}", one.place(), one.message)).collect()
}

#[test]
fn a_vrid_is_unique_on_its_interface() {
    assert_eq!(
        together((7, 7), ""),
        ["c.toml:8:8: VRID 7 is taken on eth0: by the VIP `a`; a VRID is unique on its interface"]
    );
    assert!(together((7, 7), "[vrrp.vip.b]\ninterface = \"eth1\"\n").is_empty());
    assert!(together((7, 8), "").is_empty());
}

#[test]
fn an_override_for_a_vip_that_is_not_there_is_dangling() {
    assert_eq!(
        together((7, 8), "[vrrp.vip.bb]\npriority = 5\n"),
        ["n.toml:6:11: the cluster file has no VIP `bb`; did you mean `b`?"]
    );
}

/// The mistakes of a cluster file whose list or error page has this content.
fn with_file(name: &str, content: &[u8], tables: impl Fn(&str) -> String) -> Vec<String> {
    let path = std::env::temp_dir().join(format!("lbnode-config-{}-{name}", std::process::id()));
    fs::write(&path, content).unwrap();
    let shown = path.to_str().unwrap();
    let text = format!("[pair]\nname = \"x\"\n[frontend.f]\nmode = \"http\"\nbind = \"*:80\"\n{}", tables(shown));
    let found = parse_cluster("c", &text).err().map(|error| mistakes(&error)).unwrap_or_default();
    fs::remove_file(&path).unwrap();
    found.iter().map(|mistake| mistake.replace(shown, "FILE")).collect()
}

#[test]
fn a_list_file_is_told_line_by_line_and_not_to_its_end() {
    let list = |path: &str| format!("[list.l]\nfile = \"{path}\"\n");
    let good = "# offices\n10.0.0.0/8 # all\n\n192.0.2.1\r\n2001:db8::/32\n";
    assert!(with_file("good.lst", good.as_bytes(), list).is_empty());
    assert_eq!(
        with_file("bad.lst", b"10.0.0.1\n10.0.0.1/8\na\nb\nc\nd\ne\nf\n", list),
        [
            "7:8: FILE:2: `10.0.0.1/8` has bits behind its prefix; expected 10.0.0.0/8 or 10.0.0.1",
            "7:8: FILE:3: `a` is no network; expected one such as 10.0.0.0/8, 2001:db8::/32 or 10.0.0.1",
            "7:8: FILE:4: `b` is no network; expected one such as 10.0.0.0/8, 2001:db8::/32 or 10.0.0.1",
            "7:8: FILE:5: `c` is no network; expected one such as 10.0.0.0/8, 2001:db8::/32 or 10.0.0.1",
            "7:8: FILE:6: `d` is no network; expected one such as 10.0.0.0/8, 2001:db8::/32 or 10.0.0.1",
            "7:8: FILE: 2 more lines are no networks",
        ]
    );
    assert_eq!(with_file("latin.lst", b"\xe4\n", list), ["7:8: cannot read FILE: stream did not contain valid UTF-8"]);
    let long = vec![b'\n'; (2 << 20) + 1];
    assert_eq!(with_file("long.lst", &long, list), ["7:8: cannot read FILE: it is longer than 2097152 bytes"]);
}

#[test]
fn an_error_page_is_html_alone_and_not_long() {
    let page = |path: &str| format!("error_pages = {{ \"503\" = \"{path}\" }}\n");
    assert!(with_file("page", "<p>ä</p>".as_bytes(), page).is_empty());
    assert!(with_file("most", &[b'a'; 64 << 10], page).is_empty());
    assert_eq!(
        with_file("long", &[b'a'; (64 << 10) + 1], page),
        ["6:25: cannot read FILE: it is longer than 65536 bytes"]
    );
    assert_eq!(
        with_file("haproxy", b"HTTP/1.0 503 Service Unavailable\r\n\r\n<p>", page),
        ["6:25: FILE begins with a status line; expected the HTML alone"]
    );
}

#[test]
fn the_files_of_a_configuration_are_bounded_together() {
    let lists = |path: &str| {
        let one = |number| {
            fs::copy(path, format!("{path}.{number}")).unwrap();
            format!("[list.l{number}]\nfile = \"{path}.{number}\"\n")
        };
        (0..5).map(one).collect()
    };
    let found = with_file("two-mebibytes", &vec![b'\n'; 2 << 20], lists);
    assert_eq!(found, ["15:8: FILE.4: all files together have more than 8388608 bytes"]);
    for number in 0..5 {
        let name = format!("lbnode-config-{}-two-mebibytes.{number}", std::process::id());
        fs::remove_file(std::env::temp_dir().join(name)).unwrap();
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let error = load_node(Path::new("/nonexistent/node.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nonexistent/node.toml");
}
