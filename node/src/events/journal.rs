//! The files: one JSON object a line, the newest last, in two files of bounded size.
//!
//! `events.jsonl` is appended to; when it is full it becomes `events.1.jsonl`, and what that held is gone. A line
//! survives the death of the agent, and not always a power cut: nothing is worth waiting for the disk here. The same
//! number twice means an amended event: the later line holds.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::record::Event;

/// The most bytes in a file.
pub(super) const MAX_FILE: u64 = 1 << 20;
/// The highest number that every reader of JSON can tell from the next.
const MAX_ID: u64 = (1 << 53) - 1;

const CURRENT: &str = "events.jsonl";
const OLDER: &str = "events.1.jsonl";

/// Why the files could not be used.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {}", path.display())]
pub struct JournalError {
    /// What was tried.
    what: &'static str,
    /// On which file.
    path: PathBuf,
    /// The system's answer.
    #[source]
    source: io::Error,
}

impl JournalError {
    /// Whether this user may not.
    pub fn not_permitted(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

    fn of<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
        move |source| JournalError { what, path: path.to_owned(), source }
    }
}

/// What the files hold.
#[derive(Debug, Default)]
pub struct Read {
    /// By their numbers, the oldest first.
    pub events: Vec<Event>,
    /// Lines that are no events.
    pub unreadable: usize,
    /// Whether the last line was cut off in the middle.
    pub torn: bool,
}

/// Where the files lie.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("events")
}

/// Reads what is there and changes nothing; where nothing was ever written, nothing is there.
pub fn read(state_dir: &Path) -> Result<Read, JournalError> {
    let folder = folder(state_dir);
    let mut found = Read::default();
    let mut events = BTreeMap::new();
    for name in [OLDER, CURRENT] {
        let path = folder.join(name);
        let text = match tail(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(JournalError::of("read", &path)(error)),
        };
        // Nothing is appended to an older file: what was torn there stays so.
        found.unreadable += usize::from(std::mem::take(&mut found.torn));
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let whole = line.ends_with(b"\n");
            match parse(line) {
                Some(event) => {
                    events.insert(event.id, event);
                }
                None if whole => found.unreadable += 1,
                None => found.torn = true,
            }
        }
    }
    found.events = events.into_values().collect();
    Ok(found)
}

fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok().filter(|event: &Event| event.id <= MAX_ID)
}

/// The end of a file, from the start of a line on; a file of ours is read as a whole.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(MAX_FILE);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    if skipped > 0 {
        let line = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
        text.drain(..line);
    }
    Ok(text)
}

/// The writing end; whatever fails is tried again with the next line.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// The current file and its length.
    open: Option<(File, u64)>,
}

impl Journal {
    pub(super) fn new(folder: PathBuf) -> Journal {
        Journal { folder, open: None }
    }

    /// Appends a line, which ends in a line break.
    pub(super) fn append(&mut self, line: &[u8]) -> Result<(), JournalError> {
        let added = line.len() as u64;
        let path = self.folder.join(CURRENT);
        let (file, length) = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let (mut file, length) = if length > 0 && length + added > MAX_FILE {
            // After a power cut the older file is whole; the newest lines are what may be missing.
            file.sync_data().map_err(JournalError::of("write", &path))?;
            fs::rename(&path, self.folder.join(OLDER)).map_err(JournalError::of("set aside the full", &path))?;
            self.open()?
        } else {
            (file, length)
        };
        // A line that was written in part is mended when the file is opened again.
        file.write_all(line).map_err(JournalError::of("write", &path))?;
        self.open = Some((file, length + added));
        Ok(())
    }

    /// Has the disk hold what was written.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        let Some((file, _)) = &self.open else { return Ok(()) };
        file.sync_data().map_err(JournalError::of("write", &self.folder.join(CURRENT)))
    }

    fn open(&self) -> Result<(File, u64), JournalError> {
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        make.map_err(JournalError::of("make the folder", &self.folder))?;
        let path = self.folder.join(CURRENT);
        let open = || {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
            mend(&mut file)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        open().map_err(JournalError::of("open", &path))
    }
}

/// Ends the last line if it is whole, and takes it away if it is not, so that the next one starts on its own.
fn mend(file: &mut File) -> io::Result<()> {
    let mut text = Vec::new();
    let length = file.metadata()?.len();
    // Whatever is longer is no file of ours, and is replaced at once.
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_FILE)))?;
    (&mut *file).take(MAX_FILE).read_to_end(&mut text)?;
    let lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let last = &text[lines..];
    if last.is_empty() {
        return Ok(());
    }
    match parse(last) {
        Some(_) => file.write_all(b"\n"),
        None => file.set_len(length - last.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Draft;
    use super::*;

    /// A folder that goes with the test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let state_dir = std::env::temp_dir().join(format!("lbnode-journal-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&state_dir);
            Place(state_dir)
        }

        fn journal(&self) -> Journal {
            Journal::new(folder(&self.0))
        }

        fn file(&self, name: &str) -> PathBuf {
            folder(&self.0).join(name)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn line(id: u64, text: &str) -> Vec<u8> {
        let draft = Draft { text: text.to_owned(), ..Draft::default() };
        let event = draft.into_event(id, "a", std::time::SystemTime::UNIX_EPOCH);
        let mut line = serde_json::to_vec(&event).unwrap();
        line.push(b'\n');
        line
    }

    fn told(read: &Read) -> Vec<(u64, &str)> {
        read.events.iter().map(|event| (event.id, event.text.as_str())).collect()
    }

    #[test]
    fn lines_are_read_again_and_the_later_one_of_a_number_holds() {
        let place = Place::new("again");
        let mut journal = place.journal();
        for (id, text) in [(1, "one"), (2, "two"), (1, "one, amended")] {
            journal.append(&line(id, text)).unwrap();
        }
        place.journal().append(&line(3, "three")).unwrap();
        let read = read(&place.0).unwrap();
        assert_eq!(told(&read), [(1, "one, amended"), (2, "two"), (3, "three")]);
        assert_eq!((read.unreadable, read.torn), (0, false));
    }

    #[test]
    fn where_nothing_was_written_nothing_is_read() {
        let read = read(&Place::new("nothing").0).unwrap();
        assert!(read.events.is_empty() && !read.torn);
    }

    #[test]
    fn a_torn_last_line_is_told_and_taken_away() {
        let place = Place::new("torn");
        place.journal().append(&line(1, "one")).unwrap();
        let mut file = OpenOptions::new().append(true).open(place.file(CURRENT)).unwrap();
        file.write_all(&line(2, "two")[..20]).unwrap();
        let found = read(&place.0).unwrap();
        assert_eq!((told(&found), found.unreadable, found.torn), (vec![(1, "one")], 0, true));
        place.journal().append(&line(2, "two, again")).unwrap();
        let found = read(&place.0).unwrap();
        assert_eq!((told(&found), found.unreadable, found.torn), (vec![(1, "one"), (2, "two, again")], 0, false));
    }

    #[test]
    fn a_last_line_that_lost_only_its_end_is_kept() {
        let place = Place::new("unended");
        fs::create_dir_all(folder(&place.0)).unwrap();
        fs::write(place.file(CURRENT), line(1, "one").trim_ascii_end()).unwrap();
        place.journal().append(&line(2, "two")).unwrap();
        assert_eq!(told(&read(&place.0).unwrap()), [(1, "one"), (2, "two")]);
    }

    #[test]
    fn garbage_is_counted_and_passed_over() {
        let place = Place::new("garbage");
        fs::create_dir_all(folder(&place.0)).unwrap();
        let too_high = String::from_utf8(line(7, "x")).unwrap().replace(":7,", &format!(":{},", u64::MAX));
        let garbage = [b"\xff\xfe\0\n{}\n[]\n\n".as_slice(), too_high.as_bytes(), &line(1, "one")].concat();
        fs::write(place.file(CURRENT), garbage).unwrap();
        fs::write(place.file(OLDER), "null").unwrap();
        let found = read(&place.0).unwrap();
        assert_eq!((told(&found), found.unreadable, found.torn), (vec![(1, "one")], 6, false));
    }

    #[test]
    fn two_files_are_all_there_ever_is() {
        let place = Place::new("rotation");
        let mut journal = place.journal();
        let text = "x".repeat(900);
        let last = 3_000;
        for id in 1..=last {
            journal.append(&line(id, &text)).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(folder(&place.0))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert!(entry.metadata().unwrap().len() <= MAX_FILE, "{entry:?}");
                entry.file_name().into_string().unwrap()
            })
            .collect();
        names.sort();
        assert_eq!(names, [OLDER, CURRENT]);
        let found = read(&place.0).unwrap();
        let ids: Vec<u64> = found.events.iter().map(|event| event.id).collect();
        assert!(ids.len() > 1_000, "only {} are left", ids.len());
        assert_eq!(ids, (last + 1 - ids.len() as u64..=last).collect::<Vec<_>>(), "the newest, without a gap");
        assert_eq!((found.unreadable, found.torn), (0, false));
    }

    #[test]
    fn a_file_that_grew_beyond_measure_is_read_from_a_line_on() {
        let place = Place::new("grown");
        fs::create_dir_all(folder(&place.0)).unwrap();
        let all: Vec<u8> = (1..=20_000).flat_map(|id| line(id, "x")).collect();
        assert!(all.len() as u64 > MAX_FILE);
        fs::write(place.file(CURRENT), all).unwrap();
        let found = read(&place.0).unwrap();
        assert_eq!((found.unreadable, found.events.last().map(|event| event.id)), (0, Some(20_000)));
        place.journal().append(&line(20_001, "x")).unwrap();
        assert!(place.file(CURRENT).metadata().unwrap().len() < 1_000, "the next line starts a new file");
    }

    #[test]
    fn what_is_in_the_way_is_named_and_once_it_is_gone_writing_works() {
        let place = Place::new("in-the-way");
        fs::create_dir_all(&place.0).unwrap();
        fs::write(folder(&place.0), "a file").unwrap();
        let mut journal = place.journal();
        let error = journal.append(&line(1, "one")).unwrap_err();
        assert!(error.to_string().contains("events"), "{error}");
        fs::remove_file(folder(&place.0)).unwrap();
        journal.append(&line(2, "two")).unwrap();
        assert_eq!(told(&read(&place.0).unwrap()), [(2, "two")]);
    }
}
