//! What the compiler does not check: the shape of the sources, and that the documentation tells the truth about them.
//!
//! A message names the file and what to do instead. Whoever has a reason for an exception adds it to a list here.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use zloop_backends::Kind;
use zloop_conformance::{CASES, Clause};

/// No file is longer.
const LINES_MAX: usize = 600;

/// Where unsafe code may be, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("backends/src/api.rs", "the signature of Backend::send"),
    ("backends/src/attempt.rs", "system calls"),
    ("backends/src/child.rs", "pidfds, which nix does not know"),
    ("backends/src/fd.rs", "vouches for raw fds"),
    ("backends/src/fork.rs", "asks to be told of forks"),
    ("backends/src/readiness/mod.rs", "the signature of Backend::send"),
    ("backends/src/readiness/epoll.rs", "epoll_pwait2, which no C library of the last years has"),
    ("backends/src/readiness/libkqueue.rs", "calls a C library"),
    ("backends/src/uring/flight.rs", "keeps pointers to the memory of sends"),
    ("backends/src/uring/mod.rs", "hands requests to the ring"),
    ("backends/src/uring/ring.rs", "enters the kernel by hand"),
    ("backends/src/uring/tests.rs", "calls Backend::send"),
    ("backends/src/sim/mod.rs", "reads the memory of sends, as a kernel does"),
    ("conformance/src/mutant.rs", "reads the memory of sends too late"),
    ("conformance/src/os.rs", "signals and forks"),
    ("conformance/src/rig.rs", "calls Backend::send"),
    ("src/py/call.rs", "the C interface of Python"),
    ("src/py/cell.rs", "shares state under the interpreter's lock"),
    ("src/py/context.rs", "looks at the context of a thread"),
    ("src/py/handle/memory.rs", "recycles handles"),
    ("src/py/handle/methods.rs", "native subtypes of asyncio's handles"),
    ("src/py/handle/mod.rs", "native subtypes of asyncio's handles"),
    ("src/py/handle/run.rs", "calls with arguments that lie in a handle"),
    ("src/py/invoke.rs", "calls that a thread may not come back from"),
    ("src/py/native.rs", "hot methods without argument tuples"),
    ("src/py/stream/write.rs", "calls Backend::send"),
    ("src/py/tls/direct.rs", "takes the OpenSSL session out of Python's object"),
    ("src/py/tls/portable.rs", "has the ssl module fill `bytes`"),
    ("src/tls/openssl.rs", "OpenSSL's functions, by name"),
    ("src/tls/pipe.rs", "is called by OpenSSL for bytes"),
    ("src/tls/session.rs", "calls OpenSSL for records"),
    ("src/py/transport.rs", "native subtypes of asyncio's transports"),
];

/// What follows the keyword where it is used.
const UNSAFE_CODE: &[&str] = &[" {", " fn", " impl", " extern", "("];

/// Where a platform may be named: where the platforms get their names, and what wraps a system call or its memory
/// layout.
const PLATFORMS: &[&str] = &["backends/build.rs", "backends/src/addr.rs", "backends/src/attempt.rs"];

/// What must not be said, and what to do instead. In two halves, so that this file may.
const BANNED: &[(&str, &str, &str)] = &[
    ("to", "do!(", "write it, or leave it out and say so in the documentation"),
    ("unimple", "mented!(", "write it, or leave it out and say so in the documentation"),
    ("dbg", "!(", "take it out"),
    ("FIX", "ME", "fix it"),
    ("XX", "X:", "fix it, or say what is so in a sentence"),
    ("HA", "CK", "say what is so in a sentence"),
    ("/wo", "rk/", "no path of somebody's machine"),
    ("/ro", "ot/", "no path of somebody's machine"),
];

/// Which words a folder must not know: the arrows point from Python to `src` to `backends`, and to nobody from there.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("backends/", &["pyo3", "zloop::", "_zloop", "zloop_conformance"]),
    ("src/sched/", &["pyo3", "crate::py", "zloop_conformance", ".profile("]),
    ("src/io/", &["pyo3", "crate::py", "zloop_conformance", ".profile("]),
    ("src/tls/", &["pyo3", "crate::py", "zloop_conformance", ".profile("]),
    ("src/", &["zloop_conformance"]),
];

#[test]
fn no_file_is_too_long() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines, more than {LINES_MAX}: split it by mechanism");
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let sources = sources();
    for (name, text) in &sources {
        let listed = UNSAFE.iter().any(|(file, _)| file == name);
        let used = code(text).any(|line| UNSAFE_CODE.iter().any(|after| line.contains(&format!("unsafe{after}"))));
        assert!(listed || !used, "{name} has unsafe code: do without, or add it to the list in tidy.rs with a reason");
        assert!(!listed || used, "{name} needs no unsafe code: take it off the list");
        let forbids = |text: &String| text.contains("#![forbid(unsafe_code)]");
        let parent = Path::new(name).with_file_name("mod.rs");
        let inherited = sources.get(&*parent.to_string_lossy()).is_some_and(forbids);
        // A module forbids for its children too, so the parents of unsafe files cannot.
        let is_parent = name.ends_with("/mod.rs") || name.ends_with("/lib.rs");
        let checked = listed || is_parent || inherited || forbids(text) || name.ends_with("build.rs");
        assert!(checked, "{name} lacks #![forbid(unsafe_code)]");
    }
}

#[test]
fn every_unsafe_file_exists() {
    let sources = sources();
    for (name, _) in UNSAFE.iter().filter(|(name, _)| !name.starts_with("src/")) {
        assert!(sources.contains_key(*name), "tidy.rs lists {name}, which is gone");
    }
}

#[test]
fn platforms_are_named_in_few_places() {
    for (name, text) in sources().iter().filter(|(name, _)| name.starts_with("backends/")) {
        let named = code(text).any(|line| line.contains("target_os") || line.contains("target_vendor"));
        let allowed = PLATFORMS.contains(&name.as_str());
        assert!(allowed || !named, "{name} names a platform: name what it has in backends/build.rs");
    }
}

#[test]
fn banned_words_are_not_said() {
    for (name, text) in sources() {
        for (half, other, instead) in BANNED {
            let word = format!("{half}{other}");
            assert!(!text.contains(&word), "{name} says {word}: {instead}");
        }
    }
}

#[test]
fn arrows_point_one_way() {
    for (name, text) in sources() {
        for (folder, unknown) in DIRECTIONS.iter().filter(|(folder, _)| name.starts_with(folder)) {
            for word in *unknown {
                assert!(!code(&text).any(|line| line.contains(word)), "{name} knows of {word}: {folder} must not");
            }
        }
    }
}

#[test]
fn every_case_says_which_clause_it_is_about() {
    for clause in Clause::ALL {
        assert!(CASES.iter().any(|case| case.clause == *clause), "{clause} has no case");
    }
    let sources = sources();
    let text: String =
        sources.iter().filter(|(name, _)| name.contains("/cases/")).map(|(_, text)| text.as_str()).collect();
    for case in CASES {
        let head = text.split(&format!("pub fn {}(", case.name)).next().expect("split gives at least one part");
        let comment: Vec<_> = head.lines().rev().take_while(|line| line.starts_with("///")).collect();
        let first = comment.last().copied().unwrap_or_default();
        assert!(first.contains(&case.clause.to_string()), "{}: its comment must begin with its clause", case.name);
    }
    let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len(), "two cases have the same name");
}

#[test]
fn the_contract_is_documented_as_it_is_tested() {
    let rows = rows_of_backends_md();
    for clause in Clause::ALL {
        let row = rows.get(&clause.to_string()).unwrap_or_else(|| panic!("ZLOOP_BACKENDS.md has no row for {clause}"));
        assert_eq!(row[0], clause.short(), "ZLOOP_BACKENDS.md says something else of {clause}");
        let written: BTreeSet<_> = row[1].split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect();
        let cases = CASES.iter().filter(|case| case.clause == *clause);
        let tested: BTreeSet<_> = cases.map(|case| case.name.to_owned()).collect();
        assert_eq!(written, tested, "ZLOOP_BACKENDS.md lists other cases of {clause} than there are");
        let contract = &sources()["backends/src/api.rs"];
        assert!(contract.contains(&format!("* **{clause}** ")), "the text of {clause} is missing in api.rs");
    }
}

#[test]
fn every_backend_is_documented() {
    let rows = rows_of_backends_md();
    for kind in Kind::ALL {
        assert!(rows.contains_key(&format!("`{kind}`")), "ZLOOP_BACKENDS.md has no row for `{kind}`");
    }
    assert!(rows.contains_key("`sim`"), "ZLOOP_BACKENDS.md has no row for `sim`");
}

/// The rows of all tables: the first cell, and the others.
fn rows_of_backends_md() -> HashMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join("ZLOOP_BACKENDS.md")).expect("ZLOOP_BACKENDS.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.filter_map(|row| {
        let mut cells = row.split(" | ").map(|cell| cell.trim().to_owned());
        Some((cells.next()?, cells.collect()))
    })
    .collect()
}

/// Every Rust source of the repository, by its path.
fn sources() -> HashMap<String, String> {
    let mut found = HashMap::new();
    for folder in ["backends", "benches", "conformance", "src", "build.rs"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 20, "tidy does not find the sources");
    found
}

fn collect(path: &Path, found: &mut HashMap<String, String>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder").flatten();
        for entry in entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
            collect(&entry.path(), found);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        let name = path.strip_prefix(root()).expect("a path below the root").to_string_lossy().into_owned();
        found.insert(name, fs::read_to_string(path).expect("a text file"));
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_path_buf()
}

/// The lines that are no comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}
