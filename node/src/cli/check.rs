//! `lbnode check`: every mistake of every file, without an agent.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Exit, Json, complain, paint, print, print_json, warn};
use crate::config::{self, ClusterConfig, ConfigError, Diagnostic, Kind, NodeConfig};

/// What was found in one file.
struct Checked {
    path: PathBuf,
    kind: Option<Kind>,
    content: Result<Content, ConfigError>,
}

enum Content {
    Node(Box<NodeConfig>),
    Cluster(Box<ClusterConfig>),
}

/// Checks the files, or those of this machine, and whether node and cluster files fit together.
pub(super) fn check(files: Vec<PathBuf>, json: Json) -> Exit {
    let mut checked: Vec<Checked> = match files.is_empty() {
        true => vec![check_one(Path::new("/etc/lbnode/node.toml"), None)],
        // Node files first: one says where this machine keeps what a cluster file refers to.
        false => {
            let mut checked: Vec<Checked> = Vec::new();
            let is_node =
                |path: &PathBuf| config::read_text(path).is_ok_and(|text| Kind::of(&text) == Some(Kind::Node));
            let (nodes, others): (Vec<&PathBuf>, Vec<&PathBuf>) = files.iter().partition(|path| is_node(path));
            for path in nodes.into_iter().chain(others) {
                let imported = imported(&checked);
                checked.push(check_one(path, imported.as_deref()));
            }
            checked.sort_by_key(|one| files.iter().position(|path| *path == one.path));
            checked
        }
    };
    if files.is_empty()
        && let Ok(Content::Node(node)) = &checked[0].content
    {
        let (bootstrap, imported) = (node.bootstrap.clone(), node.certificates());
        checked.push(check_one(&bootstrap, Some(&imported)));
    }
    let crossed = cross_check(&checked);
    let failed = !crossed.is_empty() || checked.iter().any(|file| file.content.is_err());
    if json.json {
        print_json(&as_json(&checked, &crossed, failed));
    } else {
        checked.iter().for_each(tell);
        if !crossed.is_empty() {
            complain(&ConfigError::Invalid(crossed));
        }
    }
    if failed { Exit::BadConfig } else { Exit::Fine }
}

/// Where the first good node file keeps what was imported.
fn imported(checked: &[Checked]) -> Option<PathBuf> {
    checked.iter().find_map(|one| match &one.content {
        Ok(Content::Node(node)) => Some(node.certificates()),
        _ => None,
    })
}

/// `imported`: where certificates were imported, unless it is where they always are.
fn check_one(path: &Path, imported: Option<&Path>) -> Checked {
    let default = Path::new(NodeConfig::STATE_DIR).join("certificates");
    let imported = imported.unwrap_or(&default);
    let read = || {
        let text = config::read_text(path)?;
        let name = path.display().to_string();
        let base = path.parent().unwrap_or(Path::new(""));
        // What shows no sign of being a node file is read as a cluster file: the more likely one.
        match Kind::of(&text) {
            Some(Kind::Node) => {
                Ok((Some(Kind::Node), config::parse_node(&name, &text, base).map(|node| Content::Node(Box::new(node)))))
            }
            kind => Ok((
                kind,
                config::parse_cluster_with(&name, &text, imported).map(|cluster| Content::Cluster(Box::new(cluster))),
            )),
        }
    };
    let (kind, content) = read().unwrap_or_else(|error: ConfigError| (None, Err(error)));
    Checked { path: path.to_owned(), kind, content }
}

/// Each node file with each cluster file.
fn cross_check(checked: &[Checked]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for file in checked {
        let Ok(Content::Node(node)) = &file.content else { continue };
        for other in checked {
            let Ok(Content::Cluster(cluster)) = &other.content else { continue };
            found.extend(config::routers(node, cluster).err().into_iter().flatten());
        }
    }
    found
}

fn tell(file: &Checked) {
    match &file.content {
        Ok(Content::Node(node)) => {
            print(format_args!(
                "{} {}: node file of `{}`",
                paint::stdout(paint::GREEN, "ok"),
                file.path.display(),
                node.name
            ));
        }
        Ok(Content::Cluster(cluster)) => {
            print(format_args!(
                "{} {}: cluster file of `{}`: {} VIPs, {} frontends, {} backends",
                paint::stdout(paint::GREEN, "ok"),
                file.path.display(),
                cluster.name,
                cluster.vips.len(),
                cluster.plan.frontends.len(),
                cluster.plan.backends.len()
            ));
            cluster.warnings(SystemTime::now()).iter().for_each(warn);
        }
        Err(error) => {
            complain(error);
            if let (ConfigError::Invalid(found), Some(kind)) = (error, file.kind) {
                let mistakes = if found.len() == 1 { "mistake" } else { "mistakes" };
                eprintln!("{}: {} with {} {mistakes}", file.path.display(), kind.describe(), found.len());
            }
        }
    }
}

fn as_json(checked: &[Checked], crossed: &[Diagnostic], failed: bool) -> Value {
    let files: Vec<Value> = checked
        .iter()
        .map(|file| {
            let errors = match &file.content {
                Ok(_) => json!([]),
                Err(ConfigError::Invalid(found)) => json!(found),
                Err(error @ ConfigError::Read { source, .. }) => json!([{ "message": format!("{error}: {source}") }]),
            };
            let warnings = match &file.content {
                Ok(Content::Cluster(cluster)) => cluster.warnings(SystemTime::now()),
                _ => Vec::new(),
            };
            json!({ "file": file.path, "kind": file.kind.map(Kind::describe), "errors": errors, "warnings": warnings })
        })
        .collect();
    json!({ "ok": !failed, "files": files, "together": crossed })
}
