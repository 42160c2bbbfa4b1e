//! Where imported certificates are kept.

use std::path::{Path, PathBuf};

/// The file of an imported certificate.
pub fn bundle(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.pem"))
}

/// Names and files of the intermediates that were imported, in order.
pub fn intermediates(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(directory.join("intermediates")) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".pem")?.to_owned();
            Some((name, path))
        })
        .collect();
    found.sort();
    found
}
