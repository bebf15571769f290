//! The report of an inspection, as text or JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cf::Digest;
use datamodel::device_header::DeviceHeader;
use serde_json::{Value, json};

use super::metadata::MetadataFile;
use super::scan::{Device, Inspection, Stored};

/// 2010-01-01, the zero of times in records.
const EPOCH: Duration = Duration::from_secs(1_262_304_000);
/// Maximum number of damaged places listed in text.
const DAMAGE_LINES: usize = 50;

#[derive(Default)]
struct SetSummary {
    records: u64,
    tombstones: u64,
    bytes: u64,
}

struct Summary {
    by_set: Vec<SetSummary>,
    expired: u64,
    with_key: u64,
    smallest: u32,
    largest: u32,
}

fn summarise(inspection: &Inspection) -> Summary {
    let now = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH).unwrap_or_default().as_secs();
    let mut summary = Summary {
        by_set: inspection.sets.iter().map(|_| SetSummary::default()).collect(),
        expired: 0,
        with_key: 0,
        smallest: inspection.records.values().map(|stored| stored.size).min().unwrap_or(0),
        largest: inspection.records.values().map(|stored| stored.size).max().unwrap_or(0),
    };
    for stored in inspection.records.values() {
        let set = &mut summary.by_set[stored.set];
        set.bytes += u64::from(stored.size);
        set.tombstones += u64::from(stored.is_tombstone());
        set.records += u64::from(!stored.is_tombstone());
        let void_time = stored.age.void_time;
        summary.expired += u64::from(void_time != 0 && u64::from(void_time) < now);
        summary.with_key += u64::from(stored.has_key);
    }
    summary
}

/// Number of partitions with each version and tree id.
fn partition_groups(header: &DeviceHeader) -> BTreeMap<(String, u8), u64> {
    let mut groups = BTreeMap::new();
    for entry in &header.partitions {
        *groups.entry((entry.version.to_string(), entry.tree_id)).or_default() += 1;
    }
    groups
}

fn partitions_with_data(header: &DeviceHeader) -> usize {
    header.partitions.iter().filter(|entry| entry.version.has_data()).count()
}

/// Numbers of write blocks with live records, with only garbage, and without records, and the bytes of live
/// records and of garbage.
struct Usage {
    live: u64,
    garbage: u64,
    empty: u64,
    live_bytes: u64,
    garbage_bytes: u64,
}

fn usage(device: &Device) -> Usage {
    let count = |test: fn(u64, u64) -> bool| {
        device.wblocks.iter().filter(|block| test(block.live_bytes, block.record_bytes)).count() as u64
    };
    let live = count(|live, _| live > 0);
    let garbage = count(|live, all| live == 0 && all > 0);
    let live_bytes = device.wblocks.iter().map(|block| block.live_bytes).sum();
    let record_bytes: u64 = device.wblocks.iter().map(|block| block.record_bytes).sum();
    Usage {
        live,
        garbage,
        empty: device.wblock_count - live - garbage,
        live_bytes,
        garbage_bytes: record_bytes - live_bytes,
    }
}

fn sorted(inspection: &Inspection) -> Vec<(&Digest, &Stored)> {
    let mut records: Vec<_> = inspection.records.iter().collect();
    records.sort_unstable_by_key(|(digest, _)| **digest);
    records
}

fn set_name(inspection: &Inspection, id: usize) -> String {
    String::from_utf8_lossy(&inspection.sets[id]).into_owned()
}

/// Prints the inspection as text.
pub(super) fn text(inspection: &Inspection, list: bool, out: &mut dyn Write) -> io::Result<()> {
    for device in &inspection.devices {
        device_text(device, out)?;
    }
    if inspection.devices.iter().all(|device| device.other_kind.is_some()) {
        return Ok(());
    }
    let summary = summarise(inspection);
    let tombstones: u64 = summary.by_set.iter().map(|set| set.tombstones).sum();
    let live = inspection.records.len() as u64 - tombstones;
    writeln!(out, "records: {live} live, {tombstones} tombstones")?;
    writeln!(
        out,
        "  {} with their key, {} expired by now; {} to {} bytes each",
        summary.with_key, summary.expired, summary.smallest, summary.largest
    )?;
    for (id, set) in summary.by_set.iter().enumerate().filter(|(_, set)| set.records + set.tombstones > 0) {
        let name = if id == 0 { "no set".to_owned() } else { format!("set {}", set_name(inspection, id)) };
        writeln!(
            out,
            "  {name}: {} records, {} tombstones, {} bytes",
            set.records, set.tombstones, set.bytes
        )?;
    }
    if list {
        writeln!(out, "digest set generation last-update-time void-time bins bytes device offset")?;
        for (digest, stored) in sorted(inspection) {
            let set = if stored.set == 0 { "-".to_owned() } else { set_name(inspection, stored.set) };
            writeln!(
                out,
                "{digest} {set} {} {} {} {} {} {} {}",
                stored.age.generation,
                stored.age.last_update_time,
                stored.age.void_time,
                stored.bin_count,
                stored.size,
                stored.device,
                stored.offset
            )?;
        }
    }
    Ok(())
}

fn device_text(device: &Device, out: &mut dyn Write) -> io::Result<()> {
    if let Some(kind) = &device.other_kind {
        return writeln!(
            out,
            "{}: {} bytes, no device or data file of a namespace: {kind}; expected are devices and files of \
             `storage-engine` in the configuration, or system metadata (WORK-DIRECTORY/smd/*.smd)",
            device.path.display(),
            device.size
        );
    }
    writeln!(out, "{}: {} bytes", device.path.display(), device.size)?;
    match &device.header {
        Err(error) => writeln!(out, "  header: at offset {}: {error}", error.offset())?,
        Ok(None) => writeln!(out, "  header: fresh")?,
        Ok(Some(header)) => {
            let flags: Vec<_> = header.flags.names().collect();
            writeln!(
                out,
                "  header: namespace {}, device {} of {}, signature {:016x}, flags [{}], write blocks of {} bytes, \
                 pristine from {}",
                String::from_utf8_lossy(&header.namespace),
                header.device_id,
                header.device_count,
                header.signature,
                flags.join(" "),
                header.wblock_size,
                header.pristine_offset
            )?;
            if let Some(text) = device.lock.text() {
                writeln!(out, "  encryption: {text}")?;
            }
            writeln!(out, "  partitions: {} with data", partitions_with_data(header))?;
            for ((version, tree_id), count) in partition_groups(header) {
                writeln!(out, "    {count} of version {version}, tree id {tree_id}")?;
            }
        }
    }
    let usage = usage(device);
    writeln!(
        out,
        "  write blocks: {}, of which {} hold live records, {} only garbage, {} none; {} were read",
        device.wblock_count,
        usage.live,
        usage.garbage,
        usage.empty,
        device.wblocks.len()
    )?;
    writeln!(
        out,
        "  copies of records: {}, of which {} in dropped partitions; {} bytes live, {} garbage, {} stale",
        device.copies, device.dropped, usage.live_bytes, usage.garbage_bytes, device.stale_bytes
    )?;
    writeln!(out, "  damage: {}", device.damage.len())?;
    for damage in device.damage.iter().take(DAMAGE_LINES) {
        writeln!(out, "    {} bytes at offset {}: {}", damage.size, damage.offset, damage.reason)?;
    }
    match device.damage.len().saturating_sub(DAMAGE_LINES) {
        0 => Ok(()),
        more => writeln!(out, "    and {more} more"),
    }
}

/// The inspection as a JSON document.
pub(super) fn json(inspection: &Inspection, list: bool) -> Value {
    let summary = summarise(inspection);
    let sets: Vec<Value> = summary
        .by_set
        .iter()
        .enumerate()
        .map(|(id, set)| {
            json!({"set": set_name(inspection, id), "records": set.records, "tombstones": set.tombstones,
                "bytes": set.bytes})
        })
        .collect();
    let tombstones: u64 = summary.by_set.iter().map(|set| set.tombstones).sum();
    let mut document = json!({
        "devices": inspection.devices.iter().map(device_json).collect::<Vec<_>>(),
        "records": {
            "live": inspection.records.len() as u64 - tombstones, "tombstones": tombstones,
            "with-key": summary.with_key, "expired": summary.expired, "sets": sets,
        },
    });
    if list {
        let record = |(digest, stored): (&Digest, &Stored)| {
            json!({
                "digest": digest.to_string(), "set": set_name(inspection, stored.set),
                "generation": stored.age.generation, "last-update-time": stored.age.last_update_time,
                "void-time": stored.age.void_time, "bins": stored.bin_count, "bytes": stored.size,
                "has-key": stored.has_key, "tombstone": stored.is_tombstone(), "device": stored.device,
                "offset": stored.offset,
            })
        };
        document["list"] = sorted(inspection).into_iter().map(record).collect();
    }
    document
}

/// `document` with the contents of the system metadata `files`, if there are any.
pub(super) fn with_metadata(mut document: Value, files: &[MetadataFile]) -> Value {
    if !files.is_empty() {
        document["metadata"] = files.iter().map(MetadataFile::json).collect();
    }
    document
}

/// Prints one JSON document.
pub(super) fn json_document(document: &Value, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    writeln!(out)
}

fn device_json(device: &Device) -> Value {
    let header = match &device.header {
        Err(error) => json!({"error": error.to_string(), "offset": error.offset()}),
        Ok(None) => json!({"fresh": true}),
        Ok(Some(header)) => {
            let group = |((version, tree_id), count): ((String, u8), u64)| json!({"version": version, "tree-id": tree_id, "partitions": count});
            json!({
                "namespace": String::from_utf8_lossy(&header.namespace), "device-id": header.device_id,
                "device-count": header.device_count, "signature": format!("{:016x}", header.signature),
                "flags": header.flags.names().collect::<Vec<_>>(), "wblock-size": header.wblock_size,
                "pristine-offset": header.pristine_offset, "partitions-with-data": partitions_with_data(header),
                "partitions": partition_groups(header).into_iter().map(group).collect::<Vec<_>>(),
            })
        }
    };
    let usage = usage(device);
    let damage: Vec<Value> = device
        .damage
        .iter()
        .map(|damage| json!({"offset": damage.offset, "size": damage.size, "reason": damage.reason}))
        .collect();
    json!({
        "path": device.path.display().to_string(), "size": device.size, "header": header,
        "other-kind": device.other_kind,
        "encryption": device.lock.text(),
        "wblocks": {
            "count": device.wblock_count, "read": device.wblocks.len(), "live": usage.live,
            "garbage": usage.garbage, "empty": usage.empty,
        },
        "bytes": {"live": usage.live_bytes, "garbage": usage.garbage_bytes, "stale": device.stale_bytes},
        "copies": device.copies, "dropped-copies": device.dropped, "damage": damage,
    })
}
