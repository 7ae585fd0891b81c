//! Replays the corpus of every fuzz target: what a fuzzer once found stays fixed.

use std::fs;
use std::path::Path;

#[path = "../fuzz/promises.rs"]
mod promises;

#[test]
fn every_input_of_every_corpus_keeps_its_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut directories: Vec<_> =
        fs::read_dir(&corpus).expect("the corpus").map(|entry| entry.expect("an entry").file_name()).collect();
    directories.sort();
    let names: Vec<&str> = promises::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(directories, names, "one directory for each target");
    for (name, promise) in promises::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).expect("a directory") {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            promise(&fs::read(&path).expect("an input"));
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no seeds");
    }
}
