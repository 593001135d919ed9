//! A blob that grows until it is whole.
//!
//! Bytes go to `ETAG.incomplete`. A connection that breaks off leaves what has arrived; the next attempt, now or in another run, asks for the rest. Only a
//! file of the right size, and for large files of the right SHA-256, gets its name.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use super::cache::create_parent;
use super::client::{Client, Head};
use super::{HubError, HubModel, Progress};

/// Attempts without a single new byte after which a file is given up.
const ATTEMPTS: u32 = 5;
/// Bytes read at a time.
const PIECE: usize = 1 << 18;
/// Bytes between two reports.
const REPORT: u64 = 1 << 20;

/// Makes `blob` (and, on the way, `incomplete`) hold a file. The caller holds the blob's lock.
pub(super) fn blob(
    client: &Client,
    model: &HubModel,
    file: &str,
    head: &Head,
    (blob, incomplete): (PathBuf, PathBuf),
    progress: &mut dyn FnMut(&Progress),
) -> Result<(), HubError> {
    if blob.exists() {
        return Ok(());
    }
    create_parent(&blob)?;
    let mut report = |done| progress(&Progress { file: file.to_owned(), done, size: head.size });
    let mut fruitless = 0;
    loop {
        let before = length(&incomplete)?;
        // an empty file still takes a request: without a size nothing else says that it is empty
        if head.size == Some(before) && before > 0 {
            break;
        }
        let outcome = attempt(client, model, file, head, &incomplete, &mut report);
        let after = length(&incomplete)?;
        let reason = match outcome {
            Ok(()) if head.size.is_none_or(|size| size <= after) => break,
            Ok(()) => format!("the connection ended after {after} bytes"),
            // these do not get better
            Err(
                error @ (HubError::Refused { .. }
                | HubError::NotFound { .. }
                | HubError::Answer { .. }
                | HubError::Io { .. }),
            ) => {
                return Err(error);
            }
            Err(error) => error.to_string(),
        };
        fruitless = if after > before { 0 } else { fruitless + 1 };
        if fruitless == ATTEMPTS {
            return Err(HubError::Network { url: client.address(model, file), reason });
        }
        std::thread::sleep(client.pause * fruitless);
    }
    verify(file, head, &incomplete)?;
    fs::rename(&incomplete, &blob).map_err(HubError::io("rename", &incomplete))?;
    Ok(())
}

/// One request, whose bytes are appended as they arrive.
fn attempt(
    client: &Client,
    model: &HubModel,
    file: &str,
    head: &Head,
    incomplete: &Path,
    report: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let failed = |action| HubError::io(action, incomplete);
    let mut out = File::options().create(true).append(true).open(incomplete).map_err(failed("open"))?;
    let mut done = length(incomplete)?;
    if head.size.is_some_and(|size| done > size) {
        out.set_len(0).map_err(failed("cut"))?;
        done = 0;
    }
    let mut response = client.get(model, file, done)?;
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    let continues =
        response.status().as_u16() == 206 && range.is_some_and(|range| range.starts_with(&format!("bytes {done}-")));
    if done > 0 && !continues {
        // the server has no parts, or another idea of them: from the beginning
        out.set_len(0).map_err(failed("cut"))?;
        done = 0;
        if response.status().as_u16() != 200 {
            response = client.get(model, file, 0)?;
        }
    }
    // more than the file has is not taken: a server must not be able to fill the disk
    let most = head.size.map_or(u64::MAX, |size| size.saturating_add(1) - done);
    let mut body = response.body_mut().as_reader().take(most);
    let (mut piece, mut reported) = (vec![0; PIECE], done);
    report(done);
    loop {
        let count = match body.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(HubError::Network { url: client.address(model, file), reason: error.to_string() });
            }
        };
        out.write_all(&piece[..count]).map_err(failed("write"))?;
        done += count as u64;
        if done - reported >= REPORT {
            report(done);
            reported = done;
        }
    }
    out.sync_all().map_err(failed("write"))?;
    report(done);
    Ok(())
}

/// Size and, where the ETag is one, SHA-256; a file that fails is removed.
fn verify(file: &str, head: &Head, incomplete: &Path) -> Result<(), HubError> {
    let damaged = |what: String| {
        let _ = fs::remove_file(incomplete);
        Err(HubError::Damaged { file: file.to_owned(), what })
    };
    let size = length(incomplete)?;
    if let Some(expected) = head.size.filter(|expected| *expected != size) {
        return damaged(format!("{size} bytes instead of {expected}"));
    }
    let is_sha256 = head.etag.len() == 64 && head.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_sha256 {
        return Ok(());
    }
    let mut input = File::open(incomplete).map_err(HubError::io("open", incomplete))?;
    let (mut context, mut piece) = (Context::new(&SHA256), vec![0; PIECE]);
    loop {
        match input.read(&mut piece).map_err(HubError::io("read", incomplete))? {
            0 => break,
            count => context.update(&piece[..count]),
        }
    }
    let digest: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if digest == head.etag.to_lowercase() { Ok(()) } else { damaged("its SHA-256 is another".to_owned()) }
}

/// Bytes of a file that need not be there.
fn length(path: &Path) -> Result<u64, HubError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(HubError::Io { action: "read", path: path.to_owned(), source }),
    }
}
