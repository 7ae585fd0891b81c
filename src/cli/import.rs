//! `postrider import postfix DIR`: a config of ours from one of Postfix, and a report of what became of each parameter.
//!
//! Reads main.cf, master.cf and the files that they name; `crate::postfix` decides. It never overwrites, and where something is
//! refused, nothing is written.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read as _, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{Context, Exit, Paint};
use crate::config::{self, Config};
use crate::credential;
use crate::postfix::{self, Action, Import, Input, NewFile, Report};

/// Largest file that is read: tables of half a million addresses fit.
const FILE_BYTES_MAX: u64 = 64 << 20;
const DIRECTORY_MODE: u32 = 0o750;
/// What `--replace` adds to the name of a file that was there.
const BEFORE: &str = ".before";
/// How systemd hands over the certificate, and where such a file belongs.
const CREDENTIALS: &str = "systemd/tls.conf";
const DROP_IN: &str = "/etc/systemd/system/postrider.service.d/tls.conf";
/// Config and tables: the owner writes, the group reads.
const FILE_MODE: u32 = 0o640;
/// Passwords and keys.
const SECRET_MODE: u32 = 0o600;
/// Who must be able to read them.
const USER: &str = "postrider";
const CONFIG: &str = "postrider.toml";
const REPORT: &str = "import.txt";
/// Where OpenDKIM's config is, if nobody says.
const OPENDKIM: &[&str] = &["/etc/opendkim.conf", "/etc/opendkim/opendkim.conf"];

/// What can be imported.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Take over a Postfix config: write postrider.toml, its tables and keys, and say what became of each parameter.
    Postfix(Arguments),
}

/// What `import postfix` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// The directory of main.cf and master.cf.
    #[arg(default_value = "/etc/postfix", value_name = "DIR")]
    directory: PathBuf,
    /// Where postrider.toml and its files go; nothing there is overwritten without --replace.
    #[arg(long, default_value = "/etc/postrider", value_name = "DIR")]
    out: PathBuf,
    /// Put the new files in the place of those that are there, which stay beside them as NAME.before, in the place of an
    /// older one.
    #[arg(long)]
    replace: bool,
    /// Only show the report.
    #[arg(long)]
    dry_run: bool,
    /// Users that log in: lines `name:password` or `name:{ARGON2ID}$argon2id$…`.
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// OpenDKIM's config [default: /etc/opendkim.conf or /etc/opendkim/opendkim.conf, if there].
    #[arg(long, value_name = "FILE")]
    opendkim: Option<PathBuf>,
    /// Where mail for local names without an alias goes, which had mailboxes.
    #[arg(long, value_name = "ADDRESS")]
    local_to: Option<crate::mail::Address>,
    /// Leave a refused parameter out, whatever that changes. It must be one that is refused. May be given more than once.
    #[arg(long, value_name = "PARAMETER")]
    allow: Vec<String>,
}

/// Runs the command: 0 if all is taken over, 1 if something is refused or `--allow` names what is not, 78 if the result is no sound config.
///
/// # Errors
/// A file cannot be read or written, or is there already.
pub fn run(context: &Context, command: &Command, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let Command::Postfix(arguments) = command;
    // It reads no config. Who names one means where to write, and must not find the system's replaced in its stead.
    if context.config != Path::new(config::PATH) {
        bail!(
            "-c {} is not followed here: --out DIR says where {CONFIG} and its files are written",
            context.config.display()
        );
    }
    let import = read(arguments)?;
    let files = files(&import);
    let mut outcome = Exit::Done;
    let mut is_written = false;
    // A slip of the pen must not pass for consent.
    let slips = arguments.allow.iter().filter_map(|name| Some((name, import.report.not_allowed(name)?)));
    let slips: Vec<String> = slips.map(|(name, why)| format!("postrider: --allow {name}: {why}")).collect();
    slips.iter().for_each(|slip| eprintln!("{slip}"));
    if import.report.is_refused() || !slips.is_empty() {
        outcome = Exit::Failed;
    } else if let Err(problems) = Config::parse(&import.target.toml(), Path::new(CONFIG)) {
        eprintln!("{problems}");
        outcome = Exit::Config;
    } else if !arguments.dry_run {
        is_written = write(&arguments.out, &files, arguments.replace)?;
        if !is_written {
            outcome = Exit::Config;
        }
    }
    let shown = match context.json {
        true => writeln!(out, "{:#}", as_json(&import, &files, is_written)),
        false => show(&import, arguments, outcome, is_written, out),
    };
    match shown {
        // `postrider import postfix | head` is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(outcome.into()),
    }
}

fn read(arguments: &Arguments) -> anyhow::Result<Import> {
    let directory = std::path::absolute(&arguments.directory)?;
    let text_of = |path: &Path| text(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()));
    let main = text_of(&directory.join("main.cf"))?;
    // A directory with main.cf alone has the services that Postfix is installed with.
    let master = match text(&directory.join("master.cf")) {
        Ok(text) => text,
        Err(error) => bail!("{}: {error}", directory.join("master.cf").display()),
    };
    let users = arguments.users.as_deref().map(text_of).transpose()?;
    let opendkim = match &arguments.opendkim {
        Some(path) => Some((path.display().to_string(), text_of(path)?)),
        None => OPENDKIM.iter().find_map(|path| Some(((*path).to_owned(), text(Path::new(path)).ok()?))),
    };
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let shown = directory.display().to_string();
    let local_to = arguments.local_to.as_ref().map(ToString::to_string);
    let input = Input {
        main: &main,
        master: &master,
        directory: &shown,
        hostname: hostname.trim(),
        read: &|path| text(Path::new(path)),
        hash: &|password| credential::hash(password).map_err(|error| error.to_string()),
        users: users.as_deref(),
        local_to: local_to.as_deref(),
        opendkim: opendkim.as_ref().map(|(path, text)| (path.as_str(), text.as_str())),
        allowed: &arguments.allow,
    };
    postfix::import(&input).map_err(|(file, flaw)| anyhow::anyhow!("{shown}/{file}, {flaw}"))
}

fn text(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    })?;
    // A pipe or device has no end.
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} octets"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// Everything that is written.
fn files(import: &Import) -> Vec<NewFile> {
    let plain = |path: &str, text: String| NewFile { path: path.to_owned(), text, is_secret: false };
    let mut files = vec![plain(CONFIG, import.target.toml())];
    files.push(plain(REPORT, import.report.text(&|_, title| title.to_owned())));
    files.extend(import.files.iter().cloned());
    files
        .extend(import.target.tls.as_ref().map(|(certificate, key)| plain(CREDENTIALS, credentials(certificate, key))));
    files
}

/// A drop-in by which root hands the daemon a certificate and key that its user may not read, as most may not.
fn credentials(certificate: &str, key: &str) -> String {
    let mut text = "# Postfix opened these as root. The daemon's user need not read them: systemd hands them over at each start.\n\
                    [Service]\nLoadCredential=\n"
        .to_owned();
    let both = [certificate, key];
    let different = if certificate == key { &both[..1] } else { &both[..] };
    for path in different {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        text += &format!("LoadCredential={name}:{path}\n");
    }
    text
}

/// Writes all files or none, and looks whether the daemon would take them.
fn write(directory: &Path, files: &[NewFile], replaces: bool) -> anyhow::Result<bool> {
    let directory = std::path::absolute(directory)?;
    let there: Vec<PathBuf> =
        files.iter().map(|file| directory.join(&file.path)).filter(|path| super::exists(path)).collect();
    if let Some(path) = there.first().filter(|_| !replaces) {
        bail!("{} is there already; nothing was written. See --replace", path.display());
    }
    let (mut moved, mut written) = (Vec::new(), Vec::new());
    let moving = there.into_iter().try_for_each(|path| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(BEFORE);
        let aside = path.with_file_name(name);
        std::fs::rename(&path, &aside).with_context(|| format!("{} cannot be moved", path.display()))?;
        moved.push((aside, path));
        anyhow::Ok(())
    });
    let outcome = moving.and_then(|()| files.iter().try_for_each(|file| write_one(&directory, file, &mut written)));
    let outcome = outcome.map(|()| Config::load(&directory.join(CONFIG)));
    // Half an import would stop the next one.
    let undo = |written: &[PathBuf]| {
        written.iter().for_each(|path| drop(std::fs::remove_file(path)));
        moved.iter().for_each(|(aside, path)| drop(std::fs::rename(aside, path)));
    };
    match outcome {
        Ok(Ok(_)) => {
            hand_over(&directory, files);
            Ok(true)
        }
        Ok(Err(problems)) => {
            undo(&written);
            eprintln!("{problems}");
            Ok(false)
        }
        Err(error) => {
            undo(&written);
            Err(error)
        }
    }
}

fn write_one(directory: &Path, file: &NewFile, written: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let path = directory.join(&file.path);
    let context = || format!("{} cannot be written", path.display());
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent).with_context(context)?;
    }
    let mode = if file.is_secret { SECRET_MODE } else { FILE_MODE };
    let mut target = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).with_context(context)?;
    written.push(path.clone());
    target.write_all(file.text.as_bytes()).and_then(|()| target.sync_all()).with_context(context)
}

/// Gives keys and passwords to the service's user, and the rest to its group, if there is one.
fn hand_over(directory: &Path, files: &[NewFile]) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some((uid, gid)) = ids(&users, USER) else { return };
    let below = |file: &NewFile| Path::new(&file.path).parent().map(|parent| directory.join(parent));
    for parent in files.iter().filter_map(below) {
        let _ = std::os::unix::fs::chown(parent, None, Some(gid));
    }
    for file in files {
        let owner = file.is_secret.then_some(uid);
        let _ = std::os::unix::fs::chown(directory.join(&file.path), owner, Some(gid));
    }
}

fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn show(
    import: &Import,
    arguments: &Arguments,
    outcome: Exit,
    is_written: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let paint = Paint::of_stdout();
    let heading = |action: Action, title: &str| match action {
        Action::Refused => paint.red(title),
        Action::Approximated => paint.yellow(title),
        Action::Mapped => paint.green(title),
        Action::Ignored => paint.dim(title),
    };
    write!(out, "{}", import.report.text(&heading))?;
    let counts = Action::ALL.map(|action| format!("{} {}", import.report.count(action), action.name())).join(", ");
    let end = match (outcome, is_written) {
        (_, true) => {
            let out = arguments.out.display();
            let handed = import.target.tls.as_ref().map_or(String::new(), |_| {
                format!("\n  install -D -m 0644 {out}/{CREDENTIALS} {DROP_IN} && systemctl daemon-reload")
            });
            format!("written to {out}; next, as root:\n  postrider -c {out}/{CONFIG} check{handed}")
        }
        (Exit::Done, false) => "nothing was written (--dry-run)".to_owned(),
        (Exit::Failed, false) if import.report.is_refused() => {
            "nothing was written: mend what was refused, or see --allow".to_owned()
        }
        (Exit::Failed, false) => "nothing was written: --allow names what is not refused".to_owned(),
        (Exit::Config | Exit::NoDaemon, false) => "nothing was written: the config has errors".to_owned(),
    };
    writeln!(out, "\n{counts}; {end}")
}

fn as_json(import: &Import, files: &[NewFile], is_written: bool) -> serde_json::Value {
    let entry = |entry: &postfix::Entry| {
        json!({
            "action": entry.action.name(),
            "parameter": entry.parameter,
            "place": entry.place,
            "value": entry.value,
            "text": entry.text,
            "instead": entry.instead,
        })
    };
    let Report { entries } = &import.report;
    json!({
        "counts": Action::ALL.map(|action| (action.name(), import.report.count(action))).into_iter()
            .collect::<std::collections::BTreeMap<_, _>>(),
        "entries": entries.iter().map(entry).collect::<Vec<_>>(),
        "files": files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        "written": is_written,
    })
}
