//! Command lines by chance, mostly sensible ones, from one seed.

use crate::worlds::{Place, World, written};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::ffi::OsString;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A command line with what goes with it.
pub(crate) struct Line {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) variables: Vec<(&'static str, &'static str)>,
    pub(crate) input: Option<Vec<u8>>,
    /// Whether it may change what is stored.
    pub(crate) changes: bool,
    /// Whether its output is a file's content.
    pub(crate) has_content: bool,
    /// Whether its output holds times.
    pub(crate) has_times: bool,
    /// Whether the original gives its entries in no order.
    pub(crate) unordered: bool,
    /// Whether its message may have several lines.
    pub(crate) usage: bool,
}

/// Names that were pushed, so that most lines meet something.
pub(crate) struct Generator {
    random: StdRng,
    place: Place,
    encrypted: bool,
    source: PathBuf,
    known: Vec<String>,
    /// A moment between what was stored before and after.
    moment: Option<u64>,
}

/// Stands for a file of the local disk that each program has for itself.
pub(crate) const PULLED: &str = "PULLED";

const DIRECTORIES: &[&str] = &["", "a/", "a/b/", "data with blank/", "ü/é/", "x&y<z>/", "100%/"];
const NAMES: &[&str] =
    &["one", "two.txt", "three.tar.gz", "four five", "six+seven", "ünï", "a&<b>", "it's", "%20"];

impl Generator {
    pub(crate) fn new(seed: u64, world: &World) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            place: world.place,
            encrypted: world.encryption.is_some(),
            source: world.local("source"),
            known: Vec::new(),
            moment: None,
        }
    }

    /// What is stored from now on is later than what was: in no whole second are files of both, nor in
    /// the one between them that later command lines ask for, where one program may be a moment earlier
    /// than the other.
    pub(crate) fn now_is_later(&mut self) {
        sleep(Duration::from_secs(1));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        self.moment = Some(now.as_secs());
        sleep(Duration::from_secs(1));
    }

    pub(crate) fn line(&mut self) -> Line {
        let mut line = self.usual_line();
        // What is pushed stays below one base, so that no file is where another's directory is.
        // Servers of FTP have answers of their own where a base is missing.
        if !line.changes && !self.place.is_ftp() && self.chance(8) {
            let bases = ["", " ", "/", ".", "a", "/a/b/", " a ", "a//b", "./a/", "a/../b", "none"];
            line.variables.push(("DATASAFED_BACKEND_BASE_PATH", self.one(&bases)));
        }
        line
    }

    fn usual_line(&mut self) -> Line {
        match self.random.random_range(0..100) {
            _ if self.known.len() < 5 => self.push(),
            0..25 => self.push(),
            25..40 => self.pull(),
            40..65 => self.list(),
            65..75 => self.stat(),
            75..83 => self.remove(),
            83..89 => self.directory(),
            89..93 => self.getconf(),
            _ => self.nonsense(),
        }
    }

    fn one(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.random.random_range(0..choices.len())]
    }

    fn chance(&mut self, of_hundred: u32) -> bool {
        self.random.random_range(0..100) < of_hundred
    }

    /// A path of a file, in one of its spellings.
    fn file(&mut self) -> String {
        let path = match self.known.len() {
            known if known > 0 && self.chance(75) => {
                self.known[self.random.random_range(0..known)].clone()
            }
            _ => format!("{}{}", self.one(DIRECTORIES), self.one(NAMES)),
        };
        match self.random.random_range(0..12) {
            0 => format!("/{path}"),
            1 => format!("./{path}"),
            2 => path.replace('/', "//"),
            3 => format!("a/../{path}"),
            _ => path,
        }
    }

    /// A path of a directory, in one of its spellings, or of a file.
    fn any(&mut self) -> String {
        let directory = self.one(DIRECTORIES).to_owned();
        match self.random.random_range(0..12) {
            0..3 => "/".to_owned(),
            // Encrypted, 0.2.0 fails at it.
            3 if !self.encrypted => ".".to_owned(),
            4 => "missing".to_owned(),
            5 => format!("{directory}missing/"),
            6..8 => self.file(),
            8 if directory.is_empty() => "/".to_owned(),
            8 => directory.trim_end_matches('/').to_owned(),
            9 => format!("/{directory}"),
            _ if directory.is_empty() => "/".to_owned(),
            _ => directory,
        }
    }

    fn push(&mut self) -> Line {
        let path = self.file();
        let lengths = [0, 1, 15, 16, 17, 100, 1000, 5000, 102_400, 130_000, 300_000];
        let length = lengths[self.random.random_range(0..lengths.len())];
        let seed = self.random.random_range(0..u64::MAX);
        let content = crate::support::random_bytes(seed, length);
        let mut arguments = vec!["push".to_owned()];
        let input = match self.chance(50) {
            true => {
                arguments.push("-".to_owned());
                Some(content)
            }
            false => {
                arguments.push(written(&self.source, &content).display().to_string());
                None
            }
        };
        let clean = clean(&path);
        arguments.push(path);
        // A file where another one's directory is: each store has its own answer.
        let clash = |known: &String| {
            known.starts_with(&format!("{clean}/")) || clean.starts_with(&format!("{known}/"))
        };
        if !self.known.contains(&clean) && !self.known.iter().any(clash) {
            self.known.push(clean);
        }
        Line { input, changes: true, ..plain(arguments) }
    }

    fn pull(&mut self) -> Line {
        let path = if self.chance(90) { self.file() } else { self.any() };
        if self.chance(30) {
            return plain(vec!["pull".to_owned(), path, PULLED.to_owned()]);
        }
        let arguments = vec!["pull".to_owned(), path, "-".to_owned()];
        Line { has_content: true, ..plain(arguments) }
    }

    fn list(&mut self) -> Line {
        let mut arguments = vec!["list".to_owned()];
        let recursive = self.chance(45);
        let mut unordered = false;
        let mut has_times = false;
        if recursive {
            arguments.push(self.one(&["-r", "--recursive", "-r=true"]).to_owned());
            unordered = self.place.is_local();
        }
        if self.chance(15) {
            arguments.push(self.one(&["-d", "-f", "--files-only"]).to_owned());
        }
        if self.chance(20) {
            let depth = self.random.random_range(0..4);
            arguments.push(format!("--max-depth={depth}"));
            unordered |= recursive && depth > 0;
        }
        if self.chance(25) && !recursive {
            arguments.extend(["-s".to_owned(), self.one(&["path", "size", "mtime"]).to_owned()]);
        }
        if self.chance(15) {
            arguments.push("--reverse".to_owned());
        }
        if self.chance(15) {
            let pattern =
                self.one(&["*", "t*", "*.txt", "[a-m]*", "[^a]*", "?n*", "[", "\\a*", ""]);
            arguments.extend(["--name".to_owned(), pattern.to_owned()]);
        }
        if let Some(moment) = self.moment
            && self.chance(25)
        {
            let flag = self.one(&["--newer-than", "--older-than"]);
            arguments.extend([flag.to_owned(), moment.to_string()]);
        }
        match self.random.random_range(0..5) {
            0 => {
                arguments.extend(["-o".to_owned(), "long".to_owned()]);
                has_times = true;
            }
            1 => {
                arguments.push("-ojson".to_owned());
                has_times = true;
            }
            2 => arguments.push("--output-format=short".to_owned()),
            _ => {}
        }
        // Replacing a file whole changes its directory, writing over it does not: times of local directories
        // are not compared.
        let by_time = ["mtime", "--newer-than", "--older-than"];
        if self.place.is_local() && arguments.iter().any(|flag| by_time.contains(&flag.as_str())) {
            arguments.retain(|flag| flag != "-d");
            arguments.push("-f".to_owned());
        }
        // Flags may follow the path.
        let at = self.random.random_range(1..=arguments.len());
        let splits = arguments.get(at - 1).is_some_and(|before| {
            ["-s", "-o", "--name", "--newer-than", "--older-than"].contains(&before.as_str())
        });
        let path = self.any();
        arguments.insert(if splits { 1 } else { at }, path);
        Line { has_times, unordered, ..plain(arguments) }
    }

    fn stat(&mut self) -> Line {
        let mut arguments = vec!["stat".to_owned(), self.any()];
        if self.chance(40) {
            arguments.push("--json".to_owned());
        }
        plain(arguments)
    }

    fn remove(&mut self) -> Line {
        let arguments = match self.random.random_range(0..6) {
            0 => {
                // Not the root: the original removes the bucket with it.
                let path = self.any();
                let path = if clean(&path).is_empty() { "a".to_owned() } else { path };
                vec!["rm".to_owned(), path, "-r".to_owned()]
            }
            _ => vec!["rm".to_owned(), self.file()],
        };
        Line { changes: true, ..plain(arguments) }
    }

    fn directory(&mut self) -> Line {
        let command = self.one(&["mkdir", "rmdir"]).to_owned();
        let path = self.any();
        // On servers of FTP the original removes an empty directory that a push finds in its place.
        let clean = clean(&path);
        let is_file = NAMES.contains(&clean.rsplit('/').next().unwrap_or_default());
        let other = clean.is_empty() || self.place.is_ftp() && is_file;
        let path = if other { "made/here".to_owned() } else { path };
        Line { changes: true, ..plain(vec![command, path]) }
    }

    fn getconf(&mut self) -> Line {
        let items =
            ["storage.type", "storage.root", "storage.provider", "storage.x", "x.y", "storage"];
        let item = self.one(&items).to_owned();
        plain(vec!["getconf".to_owned(), item])
    }

    /// What no command takes.
    fn nonsense(&mut self) -> Line {
        const LINES: &[&[&str]] = &[
            &["list"],
            &["list", "a", "b"],
            &["list", "--sort", "name", "/"],
            &["list", "-o", "xml", "/"],
            &["list", "--max-depth", "deep", "/"],
            &["list", "--newer-than", "99999999999999999999", "/"],
            &["list", "-d", "-f", "/"],
            &["list", "-rs", "size", "/"],
            &["list", "-q", "/"],
            &["list", "--colour", "/"],
            &["list", "--reverse=perhaps", "/"],
            &["list", "/", "-o"],
            &["list", ".."],
            &["list", "../a"],
            &["stat", ".."],
            &["stat", "-o", "json", "/"],
            &["push", "-"],
            &["push", "-", ".."],
            &["push", "-", "a/"],
            &["push", "-z", "brotli", "-", "a"],
            &["push", "/nowhere/to/be/found", "a"],
            &["pull", "a"],
            &["pull", "a/", "-"],
            &["pull", "..", "-"],
            &["pull", "a/b", ""],
            &["pull", "a/b", "/tmp/"],
            &["pull", "-d", "rar", "a", "-"],
            &["rm"],
            &["rm", ".."],
            &["rm", "-f", "a"],
            &["mkdir", "../a"],
            &["rmdir"],
            &["getconf"],
            &["getconf", "a b"],
            &["remove", "a"],
            &["lisst", "/"],
            &["sta", "/"],
            &["version", "1"],
            &["--verbose", "list", "/"],
            &["-z", "list", "/"],
            &["list", "---"],
            &["list", "--log-dir-max-age", "old", "/"],
            &["list", "--log-level", "loud", "/"],
            &["list", "--json-log-file=1", "--log-dir-max-files", "0x10", "--disable-color", "/"],
        ];
        let chosen = LINES[self.random.random_range(0..LINES.len())];
        Line { usage: true, ..plain(chosen.iter().map(|text| (*text).to_owned()).collect()) }
    }
}

/// A line with no wishes.
pub(crate) fn plain(arguments: Vec<String>) -> Line {
    Line {
        arguments: arguments.into_iter().map(OsString::from).collect(),
        variables: Vec::new(),
        input: None,
        changes: false,
        has_content: false,
        has_times: false,
        unordered: false,
        usage: false,
    }
}

fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
