//! A client of IMAP (RFC 9051) that knows a handful of commands.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A session of one user.
pub(crate) struct Imap {
    reader: BufReader<TcpStream>,
    commands: u32,
}

impl Imap {
    /// Greeted, logged in, with the inbox open.
    pub(crate) fn login(address: SocketAddr, user: &str) -> io::Result<Imap> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut imap = Imap { reader: BufReader::new(stream), commands: 0 };
        let greeting = imap.line()?;
        if !greeting.starts_with("* OK") {
            return Err(io::Error::new(ErrorKind::InvalidData, greeting));
        }
        imap.ask(&format!("LOGIN {user} secret"))?;
        imap.ask("SELECT INBOX")?;
        Ok(imap)
    }

    /// Gives a command; what was answered before its OK.
    pub(crate) fn ask(&mut self, command: &str) -> io::Result<Vec<String>> {
        let tag = self.say(command)?;
        self.until_ok(&tag)
    }

    /// Puts a mail into the inbox.
    pub(crate) fn append(&mut self, mail: &str) -> io::Result<()> {
        let tag = self.say(&format!("APPEND INBOX {{{}}}", mail.len()))?;
        self.expect("+ ")?;
        write!(self.reader.get_mut(), "{mail}\r\n")?;
        self.until_ok(&tag).map(drop)
    }

    /// The text of a mail, by its number.
    pub(crate) fn text(&mut self, number: u32) -> io::Result<Vec<u8>> {
        let tag = self.say(&format!("FETCH {number} BODY.PEEK[TEXT]"))?;
        let line = self.expect(&format!("* {number} FETCH "))?;
        let length = line.rsplit_once('{').and_then(|(_, rest)| rest.trim_end_matches('}').parse().ok());
        let mut text = vec![0; length.ok_or(ErrorKind::InvalidData)?];
        self.reader.read_exact(&mut text)?;
        self.until_ok(&tag)?;
        Ok(text)
    }

    /// How many mails there are.
    pub(crate) fn count(&mut self) -> io::Result<u32> {
        let found = self.ask("STATUS INBOX (MESSAGES)")?;
        let number = |line: &String| line.split_once("MESSAGES ")?.1.trim_end_matches(')').parse().ok();
        found.iter().find_map(number).ok_or(ErrorKind::InvalidData.into())
    }

    /// Begins to wait for news (RFC 2177).
    pub(crate) fn idle(&mut self) -> io::Result<()> {
        self.say("IDLE")?;
        self.expect("+ ").map(drop)
    }

    /// The next news while it waits.
    pub(crate) fn news(&mut self) -> io::Result<String> {
        self.line()
    }

    /// Waits for these, whatever else there is.
    pub(crate) fn hears(&mut self, news: &str) -> io::Result<()> {
        while self.news()? != news {}
        Ok(())
    }

    /// Waits for news no longer.
    pub(crate) fn done(&mut self) -> io::Result<()> {
        let tag = format!("t{}", self.commands);
        self.reader.get_mut().write_all(b"DONE\r\n")?;
        self.until_ok(&tag).map(drop)
    }

    fn say(&mut self, command: &str) -> io::Result<String> {
        self.commands += 1;
        let tag = format!("t{}", self.commands);
        self.reader.get_mut().write_all(format!("{tag} {command}\r\n").as_bytes())?;
        Ok(tag)
    }

    fn until_ok(&mut self, tag: &str) -> io::Result<Vec<String>> {
        let mut before = Vec::new();
        loop {
            let line = self.line()?;
            match line.strip_prefix(tag) {
                Some(result) if result.starts_with(" OK") => return Ok(before),
                Some(_) => return Err(io::Error::new(ErrorKind::InvalidData, line)),
                None => before.push(line),
            }
        }
    }

    fn expect(&mut self, beginning: &str) -> io::Result<String> {
        let line = self.line()?;
        if line.starts_with(beginning) { Ok(line) } else { Err(io::Error::new(ErrorKind::InvalidData, line)) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
