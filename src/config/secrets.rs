//! The files that the config names: can this process read them, and no stranger?
//!
//! Called by [`super::Config::load`], and by `init` for the rule about modes. It reads a file's first bytes to see
//! whether it is what it should be, and keeps none of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::place::Places;
use super::{Config, Problem};

/// Mode bits of "others": a stranger on this machine.
const OTHERS: u32 = 0o007;
/// Mode bits that let somebody besides the owner change a file.
const FOREIGN_WRITE: u32 = 0o022;
/// Enough of a PEM file to find its first `-----BEGIN`, after a certificate's text form.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where a file is read from: the path as configured or, where this process may not read that, the systemd credential
/// (`LoadCredential=`) of the same file name, which root hands over at start.
pub(super) fn handed_over(path: PathBuf) -> PathBuf {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
    match directory.and_then(|directory| Some(Path::new(&directory).join(path.file_name()?))) {
        Some(handed) if File::open(&path).is_err() && handed.exists() => handed,
        _ => path,
    }
}

/// Whether a file is kept from strangers: readable for owner and group at most, writable for the owner alone.
///
/// # Errors
/// What is wrong with it, and the command that would make it right.
pub fn private(path: &Path) -> Result<(), String> {
    let mode = path.metadata().map_err(|error| unreadable(path, &error))?.mode() & 0o777;
    let shown = path.display();
    if mode & OTHERS != 0 {
        return Err(format!("everybody on this machine can read the file (mode {mode:04o}); `chmod 0640 {shown}`"));
    }
    if mode & FOREIGN_WRITE != 0 {
        return Err(format!("others than its owner can change the file (mode {mode:04o}); `chmod 0640 {shown}`"));
    }
    Ok(())
}

/// Reads the config file.
pub(super) fn read_config(path: &Path, bytes_max: u64) -> Result<String, Problem> {
    let problem = |right: String| Problem::of_file(path, right);
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => problem("there is no such file; `postrider init DOMAIN` writes one".to_owned()),
        _ => problem(unreadable(path, &error)),
    })?;
    let mode = file.metadata().map(|meta| meta.mode() & 0o777).unwrap_or_default();
    // Who can change this file can read the mail (a route) and send as anyone; Exim's CVE-2010-4345 was of this kind.
    if mode & FOREIGN_WRITE != 0 {
        let shown = path.display();
        return Err(problem(format!("others than its owner can change it (mode {mode:04o}); `chmod 0640 {shown}`")));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| problem(unreadable(path, &error)))?;
    if bytes.len() as u64 > bytes_max {
        return Err(problem(format!("it is larger than {bytes_max} bytes, which is no config")));
    }
    String::from_utf8(bytes).map_err(|_| problem("it is not UTF-8".to_owned()))
}

/// What is wrong with the files that a config names.
pub(super) fn problems(config: &Config, file: &Path, places: &Places) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |path: String, outcome: Result<(), String>| {
        if let Err(right) = outcome {
            problems.push(Problem::at(file, places.of_key(&path), right));
        }
    };
    if let Some(tls) = &config.tls {
        refuse("tls.certificate".to_owned(), pem(&tls.certificate, "CERTIFICATE"));
        refuse("tls.private_key".to_owned(), key(&tls.private_key));
    }
    for (domain_index, sending) in config.sending_domains.iter().enumerate() {
        for (key_index, dkim) in sending.dkim.iter().enumerate() {
            let path = format!("sending_domain[{domain_index}].dkim[{key_index}].key");
            refuse(path, key(&dkim.key));
        }
    }
    if let Some(ca_file) = &config.delivery.ca_file {
        refuse("delivery.ca_file".to_owned(), pem(ca_file, "CERTIFICATE"));
    }
    for (index, route) in config.routes.iter().enumerate() {
        if let Some(password_file) = &route.password_file {
            let path = format!("route[{index}].password_file");
            refuse(path, password(password_file).and_then(|()| private(password_file)));
        }
        if let Some(ca_file) = &route.ca_file {
            refuse(format!("route[{index}].ca_file"), pem(ca_file, "CERTIFICATE"));
        }
    }
    problems
}

fn key(path: &Path) -> Result<(), String> {
    pem(path, "PRIVATE KEY").and_then(|()| private(path))
}

fn pem(path: &Path, label: &str) -> Result<(), String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    file.take(PEM_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut headers = text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    match headers.any(|header| header.ends_with(label)) {
        true => Ok(()),
        false => Err(format!("a PEM file with a block \"-----BEGIN {label}-----\" is expected")),
    }
}

fn password(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    match text.lines().next().is_some_and(|line| !line.is_empty()) {
        true => Ok(()),
        false => Err("a file with the password in its first line is expected".to_owned()),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("there is no file {shown}"),
        io::ErrorKind::PermissionDenied => {
            format!("{shown} cannot be read by this user; group `postrider` and mode 0640 are usual")
        }
        _ => format!("{shown} cannot be read: {error}"),
    }
}
