use std::io::BufReader;
use std::sync::Arc;

use gridkeep_keeper::clock::ManualClock;

use super::*;
use crate::audit::chain::{Chained, Note};
use crate::audit::{AuditFinding, AuditReport, AuditVerifier, beginning};

fn options(directory: &Path) -> FileAuditOptions {
    FileAuditOptions {
        check_every: Duration::ZERO,
        ..FileAuditOptions::new(directory.join("audit.log"))
    }
}

fn evidence(anchors: &[AuditAnchor]) -> AuditEvidence {
    AuditEvidence {
        key: [3; 32].into(),
        anchors: anchors.to_vec(),
    }
}

fn chain(anchors: &[AuditAnchor]) -> AuditChain {
    AuditChain::new(
        "gk",
        &evidence(anchors),
        Arc::new(ManualClock::at(1_785_500_000)),
    )
}

fn opened(directory: &Path, anchors: &[AuditAnchor]) -> FileAudit {
    FileAudit::open(options(directory), chain(anchors)).unwrap()
}

/// The lines that were given, without what the log added.
fn bodies(path: &Path) -> Vec<String> {
    parsed(path, |line| {
        line.note()
            .is_none()
            .then(|| String::from_utf8(line.body.to_vec()).unwrap())
    })
}

fn notes(path: &Path) -> Vec<Note> {
    parsed(path, |line| line.note())
}

fn parsed<T>(path: &Path, each: impl Fn(&Chained<'_>) -> Option<T>) -> Vec<T> {
    let text = std::fs::read(path).unwrap();
    text.split(|byte| *byte == b'\n')
        .filter_map(Chained::parse)
        .filter_map(|line| each(&line))
        .collect()
}

fn anchored(audit: &FileAudit) -> AuditAnchor {
    let anchor = audit.settle().unwrap().unwrap();
    audit.settled(anchor.seq);
    anchor
}

/// As the command does it: files in the order of their beginnings.
fn verified(paths: &[&Path], anchors: &[AuditAnchor]) -> AuditReport {
    let read = |path: &Path| BufReader::new(File::open(path).unwrap());
    let mut paths: Vec<_> = paths
        .iter()
        .map(|path| (beginning(&mut read(path)).unwrap(), *path))
        .collect();
    paths.sort();
    let mut verifier = AuditVerifier::new(&evidence(anchors));
    for (_, path) in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        verifier.file(name, &mut read(path)).unwrap();
    }
    verifier.finish(false)
}

fn sound(report: &AuditReport) {
    assert_eq!(report.findings, [], "{report:?}");
}

/// Writes `count` lines and waits for each.
async fn write(audit: &FileAudit, lines: std::ops::RangeInclusive<u32>) {
    for line in lines {
        audit
            .write(format!("{{\"line\":{line}}}\n").into_bytes())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn lines_are_there_when_write_returns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let audit = opened(directory.path(), &[]);
    audit.write(b"one\n".to_vec()).await.unwrap();
    assert_eq!(bodies(&path), ["one"]);
    audit.queue(b"two\n".to_vec()).unwrap();
    audit.write(b"three\n".to_vec()).await.unwrap();
    assert_eq!(bodies(&path), ["one", "two", "three"], "in order");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    audit.close();
    assert_eq!(
        audit.write(b"four\n".to_vec()).await,
        Err(AuditError::Closed)
    );
}

#[tokio::test]
async fn a_renamed_file_is_followed_and_the_chain_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let older = directory.path().join("audit.log.1");
    std::fs::write(&path, b"").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let audit = opened(directory.path(), &[]);
    assert_eq!(
        std::fs::metadata(&path).unwrap().mode() & 0o777,
        0o600,
        "a wider mode is narrowed"
    );
    audit.write(b"one\n".to_vec()).await.unwrap();
    std::fs::rename(&path, &older).unwrap();
    audit.write(b"two\n".to_vec()).await.unwrap();
    assert_eq!(bodies(&path), ["two"]);
    let anchor = anchored(&audit);
    sound(&verified(&[&path, &older], std::slice::from_ref(&anchor)));
    let report = verified(&[&path], &[anchor]);
    sound(&report);
    assert!(
        report.remarks[0].contains("lines 1 to 2 are in files that were not given"),
        "{report:?}"
    );

    std::fs::remove_file(&path).unwrap();
    audit.reopen();
    audit.write(b"three\n".to_vec()).await.unwrap();
    assert_eq!(bodies(&path), ["three"]);
    assert_eq!(bodies(&older), ["one"]);
    let anchor = anchored(&audit);
    let report = verified(&[&path, &older], &[anchor]);
    assert!(
        matches!(
            report.findings[..],
            [AuditFinding::Missing { from: 3, to: 4, .. }]
        ),
        "a file that is not there shows: {report:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_whole_lines() {
    let directory = tempfile::tempdir().unwrap();
    let audit = Arc::new(opened(directory.path(), &[]));
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move {
                for line in 0..20 {
                    audit
                        .write(format!("{task} {line} {}\n", "x".repeat(task)).into_bytes())
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let path = directory.path().join("audit.log");
    let lines = bodies(&path);
    assert_eq!(lines.len(), 64 * 20);
    assert!(lines.iter().all(|line| {
        let mut parts = line.split(' ');
        let task: usize = parts.next().unwrap().parse().unwrap();
        parts.nth(1).unwrap().len() == task
    }));
    let report = verified(&[&path], &[anchored(&audit)]);
    sound(&report);
    assert_eq!((report.proven, report.remarks.len()), (64 * 20 + 1, 0));
}

/// A file of ten lines behind its note, its anchor, and the lines as they are.
async fn ten(directory: &Path) -> (PathBuf, AuditAnchor, Vec<String>) {
    let audit = opened(directory, &[]);
    write(&audit, 1..=10).await;
    let anchor = anchored(&audit);
    audit.close();
    let path = directory.join("audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, anchor, text.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn whatever_is_done_to_a_file_shows() {
    let directory = tempfile::tempdir().unwrap();
    let (path, anchor, lines) = ten(directory.path()).await;
    let anchors = [anchor];
    sound(&verified(&[&path], &anchors));
    let after = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        let mut text = lines.join("\n");
        text.push('\n');
        std::fs::write(&path, text).unwrap();
        verified(&[&path], &anchors).findings
    };
    // Line n of the chain is element n - 1: the note is the first.
    for at in 0..lines.len() - 1 {
        let seq = at as u64 + 1;
        let findings = after(&|lines| drop(lines.remove(at)));
        let expected = if at == 0 {
            matches!(findings[..], [AuditFinding::Beheaded { .. }])
        } else {
            matches!(findings[..], [AuditFinding::Missing { from, to, at_end: false, .. }] if (from, to) == (seq, seq))
        };
        assert!(expected, "removed {seq}: {findings:?}");
        let findings = after(&|lines| lines.swap(at, at + 1));
        assert!(!findings.is_empty(), "exchanged {seq}");
        let findings = after(&|lines| {
            let line = lines[at].clone();
            lines.push(line);
        });
        assert!(
            matches!(findings[..], [AuditFinding::OutOfOrder { seq: found, .. }] if found == seq),
            "repeated {seq}: {findings:?}"
        );
    }
    for at in 1..lines.len() {
        let seq = at as u64 + 1;
        let findings =
            after(&|lines| lines[at] = lines[at].replacen("{\"line\":", "{\"line\":9", 1));
        assert!(
            matches!(findings[..], [AuditFinding::Changed { seq: found, .. }] if found == seq),
            "changed {seq}: {findings:?}"
        );
        let findings = after(&|lines| lines.truncate(at));
        assert!(
            matches!(findings[..], [AuditFinding::Missing { from, to: 11, at_end: true, .. }] if from == seq),
            "cut before {seq}: {findings:?}"
        );
        let findings = after(&|lines| lines.insert(at, "{\"type\":\"request\"}".to_owned()));
        assert!(
            matches!(findings[..], [AuditFinding::Inserted { lines: 1, .. }]),
            "inserted before {seq}: {findings:?}"
        );
    }
    let findings = after(&|lines| lines.insert(0, "{\"type\":\"request\"}".to_owned()));
    assert!(
        matches!(
            findings[..],
            [AuditFinding::Inserted { .. }, AuditFinding::Beheaded { .. }]
        ),
        "{findings:?}"
    );
    // Another line under the number and the MAC of one that was there.
    let findings = after(&|lines| {
        let chain = lines[4][lines[4].find(",\"chain\"").unwrap()..].to_owned();
        lines[4] = format!("{{\"forged\":true{chain}");
    });
    assert!(
        matches!(findings[..], [AuditFinding::Changed { seq: 5, .. }]),
        "{findings:?}"
    );
    // Every line forged under a key of somebody's own.
    let stranger = Chainer::new(&[4; 32]);
    let id = anchors[0].chain.clone();
    let mut forged = Vec::new();
    let mut head = Head::default();
    for line in 0..11 {
        stranger.append(
            &mut forged,
            &id,
            &mut head,
            format!("{{\"forged\":{line}}}").as_bytes(),
        );
    }
    std::fs::write(&path, forged).unwrap();
    let findings = verified(&[&path], &anchors).findings;
    assert!(findings.len() > 10, "{findings:?}");
    assert!(
        findings
            .iter()
            .any(|finding| matches!(finding, AuditFinding::Replaced { seq: 11, .. })),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_restart_goes_on_where_the_log_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (path, anchor, _) = ten(directory.path()).await;
    let audit = opened(directory.path(), std::slice::from_ref(&anchor));
    write(&audit, 11..=12).await;
    audit.close();
    let report = verified(&[&path], std::slice::from_ref(&anchor));
    sound(&report);
    assert!(
        report.remarks[0].contains("the last 3 lines of node gk were written after"),
        "{report:?}"
    );
    // A kill: these lines were never noted. They are found, though the file was renamed meanwhile.
    let older = directory.path().join("audit.log.1");
    std::fs::rename(&path, &older).unwrap();
    let early = anchor.clone();
    let audit = opened(directory.path(), &[anchor]);
    write(&audit, 13..=13).await;
    // And once more, where the lines that were never noted are in the old file and in the new.
    audit.close();
    let audit = opened(directory.path(), std::slice::from_ref(&early));
    write(&audit, 14..=14).await;
    let anchor = anchored(&audit);
    let report = verified(&[&path, &older], &[anchor]);
    sound(&report);
    assert_eq!((report.proven, report.remarks.len()), (18, 0), "{report:?}");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_line_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let (path, anchor, lines) = ten(directory.path()).await;
    let whole = std::fs::read(&path).unwrap();
    let last = lines.last().unwrap().len();
    // The anchor before the last line, of which each length may be there.
    let mut earlier = anchor.clone();
    let before = Chained::parse(lines[9].as_bytes()).unwrap().head;
    (earlier.seq, earlier.mac) = (before.seq, mac_text(&before.mac));
    earlier.length = (whole.len() - last - 1) as u64;
    for there in [0, 1, last / 2, last - 1, last, last + 1] {
        std::fs::write(&path, &whole[..whole.len() - last - 1 + there]).unwrap();
        let report = verified(&[&path], std::slice::from_ref(&earlier));
        sound(&report);
        let torn = there > 0 && there < last;
        assert_eq!(
            report.remarks.iter().any(|text| text.contains("torn")),
            torn,
            "{there}: {report:?}"
        );
        let audit = opened(directory.path(), std::slice::from_ref(&earlier));
        write(&audit, 11..=12).await;
        let report = verified(&[&path], &[anchored(&audit)]);
        sound(&report);
        assert_eq!(
            report.remarks.len(),
            usize::from(torn),
            "{there}: {report:?}"
        );
        assert_eq!(bodies(&path).len(), if there >= last { 12 } else { 11 });
    }
    // The same without a trace of the file: the line that was never noted is explained.
    std::fs::write(&path, &whole).unwrap();
    let older = directory.path().join("elsewhere");
    std::fs::create_dir(&older).unwrap();
    let older = older.join("audit.log.1");
    std::fs::rename(&path, &older).unwrap();
    let audit = opened(directory.path(), &[earlier]);
    write(&audit, 11..=12).await;
    let anchor = anchored(&audit);
    let mut verifier = AuditVerifier::new(&evidence(&[anchor]));
    for path in [&older, &path] {
        verifier
            .file("x", &mut BufReader::new(File::open(path).unwrap()))
            .unwrap();
    }
    let report = verifier.finish(false);
    sound(&report);
    assert!(
        report.remarks[0].contains("shortly before a kill"),
        "{report:?}"
    );
}

#[tokio::test]
async fn copytruncate_is_seen_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let copy = directory.path().join("audit.log.1");
    let audit = opened(directory.path(), &[]);
    write(&audit, 1..=3).await;
    std::fs::copy(&path, &copy).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    write(&audit, 4..=4).await;
    assert_eq!(notes(&path)[0].event, super::super::chain::Happened::Cut);
    sound(&verified(&[&path, &copy], &[anchored(&audit)]));
    // This time a line is written between the copy and the cut.
    let second = directory.path().join("audit.log.2");
    std::fs::copy(&path, &second).unwrap();
    write(&audit, 5..=5).await;
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    write(&audit, 6..=6).await;
    let report = verified(&[&path, &second, &copy], &[anchored(&audit)]);
    assert!(
        matches!(
            &report.findings[..],
            [AuditFinding::Missing {
                from: 7,
                to: 7,
                cut: true,
                ..
            }]
        ),
        "{report:?}"
    );
    assert!(
        report.findings[0]
            .to_string()
            .contains("rotate by renaming")
    );
}

#[tokio::test]
async fn a_log_that_was_cut_between_two_runs_shows() {
    let directory = tempfile::tempdir().unwrap();
    let (path, anchor, lines) = ten(directory.path()).await;
    std::fs::write(&path, format!("{}\n", lines[..5].join("\n"))).unwrap();
    let audit = opened(directory.path(), &[anchor]);
    write(&audit, 11..=11).await;
    let report = verified(&[&path], &[anchored(&audit)]);
    assert!(
        matches!(
            &report.findings[..],
            [AuditFinding::Missing {
                from: 6,
                to: 11,
                cut: true,
                ..
            }]
        ),
        "{report:?}"
    );
}

#[tokio::test]
async fn lines_from_before_the_chain_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    std::fs::write(&path, "{\"type\":\"request\"}\n{\"half").unwrap();
    let audit = opened(directory.path(), &[]);
    write(&audit, 1..=2).await;
    let report = verified(&[&path], &[anchored(&audit)]);
    sound(&report);
    assert!(
        report.remarks[0].contains("its first 2 lines are from before"),
        "{report:?}"
    );
}

fn writer_over(file: File, directory: &Path) -> writer::Writer {
    let file = Arc::new(file);
    let chain = chain(&[]);
    let place = resume::resume(&file, &directory.join("audit.log"), &chain).unwrap();
    let shared = Arc::new(Shared {
        options: FileAuditOptions {
            check_every: Duration::from_secs(3600),
            ..options(directory)
        },
        node: "gk".to_owned(),
        state: Mutex::default(),
        wake: Condvar::new(),
        end: Mutex::new(End {
            chain: place.chain.clone(),
            head: place.head,
            file: file.clone(),
            length: 0,
            earlier: Vec::new(),
            anchored: 0,
        }),
    });
    writer::Writer::new(shared, file, chain, place)
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    // /dev/full is not a regular file, so it stands in for the opened file directly.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let full = OpenOptions::new()
        .read(true)
        .append(true)
        .open("/dev/full")
        .unwrap();
    let mut writer = writer_over(full, directory.path());
    assert!(matches!(
        writer.write(b"one\n"),
        Err(AuditError::Write { .. })
    ));
    writer.follow_name(true);
    writer.write(b"two\n").unwrap();
    assert_eq!(bodies(&path), ["two"]);
    let report = verified(&[&path], &[]);
    sound(&report);
    assert_eq!(report.proven, 2, "the refused line left no gap");
}

#[tokio::test]
async fn what_nobody_waits_for_is_written_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let full = OpenOptions::new()
        .read(true)
        .append(true)
        .open("/dev/full")
        .unwrap();
    let mut writer = writer_over(full, directory.path());
    let shared = writer.shared();
    let audit = FileAudit {
        shared: shared.clone(),
        thread: Mutex::new(None),
    };
    audit.queue(b"owed\n".to_vec()).unwrap();
    let (sender, refused) = oneshot::channel();
    shared.put(b"refused\n", Some(sender)).unwrap();
    shared.state().closed = true;
    writer.run();
    assert!(matches!(refused.await, Ok(Err(AuditError::Write { .. }))));
    writer.follow_name(true);
    writer.write(b"").unwrap();
    assert_eq!(bodies(&path), ["owed"]);
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let audit = FileAudit::open(
        FileAuditOptions {
            pending_bytes: 8,
            ..options(directory.path())
        },
        chain(&[]),
    )
    .unwrap();
    assert_eq!(
        audit.write(vec![b'x'; 9]).await,
        Err(AuditError::Overloaded)
    );
    audit.write(b"fits\n".to_vec()).await.unwrap();
}

#[test]
fn odd_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/null", directory.path().join("audit.log")).unwrap();
    assert!(FileAudit::open(options(directory.path()), chain(&[])).is_err());
    assert!(FileAudit::probe(Path::new("/dev/null")).is_err());
    assert!(FileAudit::probe(&directory.path().join("missing/audit.log")).is_err());
}

/// A file that takes lines and cannot be brought onto the disk.
fn unsettled() -> Arc<File> {
    let (_, pipe) = std::io::pipe().unwrap();
    Arc::new(File::from(std::os::fd::OwnedFd::from(pipe)))
}

#[tokio::test]
async fn no_end_is_noted_while_an_earlier_file_may_not_be_on_the_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let audit = opened(scratch.path(), &[]);
    audit.write(b"one\n".to_vec()).await.unwrap();
    audit.shared.end().earlier.push(unsettled());
    for _ in 0..2 {
        audit.settle().unwrap_err();
    }
    audit.shared.end().earlier.clear();
    assert!(anchored(&audit).seq >= 1);
}
