//! `lbnode cert`, as people type it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use node::config::parse_cluster_with;

use super::pki::Pki;
use super::text;

/// `LBNODE_BIN`, or the `lbnode` in the target directory that this test was built into.
fn lbnode() -> Command {
    let binary = std::env::var_os("LBNODE_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("lbnode")
    });
    assert!(binary.exists(), "{} is missing: `cargo build -p node` first, or set LBNODE_BIN", binary.display());
    Command::new(binary)
}

/// Exit code, stdout and stderr, with the directory of the PKI taken out.
fn run(pki: &Pki, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = lbnode().current_dir(pki.dir()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| pki.plain(&String::from_utf8(bytes).unwrap());
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

/// A node file whose state is in the directory of the PKI.
fn node_file(pki: &Pki) {
    let text =
        "name = \"a\"\nstate_dir = \"state\"\nbootstrap = \"c.toml\"\n[vrrp]\ninterface = \"eth0\"\npriority = 100\n";
    pki.write("node.toml", text);
}

#[test]
fn check_tells_what_a_file_has_and_ends_by_what_is_wrong() {
    let pki = Pki::new("check");
    pki.write("password", "x\n");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem", "root.pem"]);
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout file:password -out c.pfx");
    let (code, out, err) = run(&pki, &["cert", "check", "bundle.pem", "--config", "node.toml"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for words in [
        "ok bundle.pem: CN=www.example.test",
        "www.example.test, *.example.test, 192.0.2.7",
        "CN=Lower CA < CN=Upper CA",
        "EC P-256",
    ] {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
    let (code, out, err) =
        run(&pki, &["cert", "check", "c.pfx", "--password-file", "password", "--config", "node.toml"]);
    assert!(code == 1 && out.contains("c.pfx: CN=www.example.test"), "{code} {out}");
    assert!(err.contains("whose issuer CN=Lower CA is missing (it can be got at http://ca.test/lower.crt)"), "{err}");
    let (code, _, err) = run(&pki, &["cert", "check", "c.pfx", "--config", "node.toml"]);
    assert!(code == 64 && err.contains("c.pfx: it needs a password"), "{code} {err}");
    let (code, out, _) =
        run(&pki, &["cert", "check", "leaf.pem", "--key", "leaf.key", "--json", "--config", "node.toml"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    let left = told["files"][0]["certificates"][0]["days_left"].as_i64().unwrap();
    assert!(code == 1 && (399..=400).contains(&left), "{out}");
    // Without a key it is looked at all the same.
    let (code, out, _) = run(&pki, &["cert", "check", "lower.pem", "--config", "node.toml"]);
    assert!(code == 0 && out.contains("CN=Lower CA"), "{code} {out}");
    assert_eq!(run(&pki, &["cert", "check", "--servers"]).0, 2);
}

#[test]
fn what_is_imported_is_kept_for_root_alone_and_an_intermediate_completes_chains() {
    let pki = Pki::new("import");
    node_file(&pki);
    pki.write("password", "x\n");
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout file:password -out c.pfx");
    let import =
        |name: &str, more: &[&str]| run(&pki, &[&["cert", "import", name, "--config", "node.toml"], more].concat());
    let (code, out, err) = import("c", &["c.pfx", "--password-file", "password"]);
    assert!(code == 0 && out.contains("`imported = true` in [certificate.c]"), "{code} {out} {err}");
    assert!(err.contains("whose issuer CN=Lower CA is missing"), "{err}");
    let kept = pki.dir().join("state/certificates/c.pem");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(kept.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    pki.openssl("x509 -in state/certificates/c.pem -noout -checkhost www.example.test");
    pki.openssl("pkey -in state/certificates/c.pem -noout");

    let directory = pki.dir().join("state/certificates");
    let read = || {
        parse_cluster_with("c", &text(&pki, "imported = true"), &directory).unwrap_or_else(|error| panic!("{error}"))
    };
    let before = read();
    assert_eq!(before.plan.certificates[0].chain, [pki.der("leaf")]);
    pki.join("cas.pem", &["upper.pem", "lower.pem"]);
    let (code, out, err) = import("cas", &["cas.pem"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let after = read();
    assert_eq!(after.plan.certificates[0].chain, [pki.der("leaf"), pki.der("lower"), pki.der("upper")]);
    assert_ne!(before.files, after.files, "it is another revision");
    assert_eq!(node::config::parse_kept("c", &text(&pki, "imported = true"), &after.files).unwrap().plan, after.plan);

    // Nothing half done: what was there stays.
    let good = fs::read(&kept).unwrap();
    pki.join("keyless.pem", &["leaf.pem", "lower.pem"]);
    pki.leaf("other", "lower", "ec", 100);
    for (file, why) in [("keyless.pem", "CN=www.example.test is no CA"), ("password", "there is no certificate in it")]
    {
        let (code, _, err) = import("c", &[file]);
        assert!(code == 64 && err.contains(why), "{code} {err}");
    }
    let (code, _, err) = import("c", &["leaf.pem", "--key", "other.key"]);
    assert!(code == 64 && err.contains("belongs to no certificate"), "{code} {err}");
    let (code, _, err) = import("../c", &["c.pfx"]);
    assert!(code == 64 && err.contains("cannot be the name"), "{code} {err}");
    assert_eq!(fs::read(&kept).unwrap(), good);
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn check_warns_where_a_running_configuration_would() {
    let pki = Pki::new("cluster");
    node_file(&pki);
    pki.join("bundle.pem", &["leaf.pem", "leaf.key"]);
    pki.write("c.toml", text(&pki, "file = \"DIR/bundle.pem\""));
    let (code, out, err) = run(&pki, &["check", "c.toml", "node.toml"]);
    assert!(
        code == 0 && err.contains("warning: c.toml:5:14: certificate `c`: the chain ends with CN=www.example.test"),
        "{out} {err}"
    );
    let (code, out, err) = run(&pki, &["cert", "check", "c.toml"]);
    assert!(code == 1 && err.contains("c.toml: c: the chain ends with"), "{out} {err}");
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for a state of another process.
#[allow(clippy::disallowed_methods, reason = "the pause between two looks at a state")]
fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !state() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for(port: u16) {
    wait_until("somebody to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

#[test]
fn extended_protection_is_checked_against_what_servers_show() {
    let pki = Pki::new("servers");
    pki.leaf("other", "lower", "ec", 100);
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    let ports = [free_port(), free_port(), free_port()];
    let server = |port: u16, name: &str| {
        let port = port.to_string();
        let words =
            ["s_server", "-quiet", "-accept", &port, "-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")];
        let mut command = Command::new("openssl");
        command.args(words).current_dir(pki.dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    };
    let _servers = [server(ports[0], "leaf"), server(ports[1], "other")];
    wait_for(ports[0]);
    wait_for(ports[1]);
    let servers: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(n, port)| format!("{{ name = \"s{n}\", address = \"127.0.0.1:{port}\" }}"))
        .collect();
    let backend = format!(
        "default_backend = \"b\"\n[backend.b]\nmode = \"http\"\ntls = {{ verify = \"none\" }}\nservers = [{}]\n",
        servers.join(", ")
    );
    pki.write("c.toml", text(&pki, "file = \"DIR/bundle.pem\"") + &backend);
    let (code, out, err) = run(&pki, &["cert", "check", "c.toml", "--servers"]);
    assert_eq!(code, 1, "{out} {err}");
    assert!(
        out.contains("backend b: server s0 shows CN=www.example.test") && out.contains("frontend f the same one"),
        "{out}"
    );
    assert!(
        err.contains("backend b: server s1 shows CN=www.example.test") && err.contains("Extended Protection"),
        "{err}"
    );
    assert!(err.contains("server s2 could not be asked for its certificate: Connection refused"), "{err}");
}

#[test]
fn list_and_status_tell_what_runs_and_a_renewed_file_is_taken_at_the_next_signal() {
    let pki = Pki::new("list");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    let port = free_port();
    pki.write("c.toml", text(&pki, "file = \"DIR/bundle.pem\"").replace("18443", &port.to_string()));
    let serve = lbnode()
        .current_dir(pki.dir())
        .args(["serve", "c.toml", "--threads", "1", "--control", "sock"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let serve = Running(serve);
    wait_for(port);
    let list = || {
        let (code, out, err) = run(&pki, &["--control", "sock", "cert", "list", "--json"]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["certificates"][0].clone()
    };
    let first = list();
    assert_eq!(first["used_by"][0], format!("127.0.0.1:{port} (tls t)"));
    assert_eq!(first["name"], "c");
    assert!((399..=400).contains(&first["days_left"].as_i64().unwrap()), "{first}");
    let (code, out, _) = run(&pki, &["--control", "sock", "cert", "list"]);
    assert!(code == 0 && out.contains("www.example.test, *.example.test") && out.contains("DAYS LEFT"), "{out}");
    assert_eq!(run(&pki, &["--control", "sock", "cert", "check"]).0, 0);
    pki.leaf("leaf", "lower", "ec", 5);
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    let hangup = Command::new("kill").args(["-HUP", &serve.0.id().to_string()]).status().unwrap();
    assert!(hangup.success());
    wait_until("the renewed certificate", || list()["sha256"] != first["sha256"]);
    let (_, page, _) = run(&pki, &["--control", "sock", "status"]);
    assert!(page.contains("! certificate c: the certificate of CN=www.example.test expires in "), "{page}");
    assert_eq!(run(&pki, &["--control", "sock", "cert", "check"]).0, 1);
}
