//! Parameters of the `storage-engine` context: one table for the engines memory, pmem and device.

use crate::config::setting::{Choice, Flag, List, Number, Text, choices};
use crate::config::spec::variant::{BACKED, DEVICE, ENCRYPTED, MEMORY, PMEM};
use crate::config::spec::{
    any_u32, any_u64, backings, boolean, choice, number, params, size, size_power_of_2, text,
};
use crate::config::value::Backing;

/// Write size of devices and files unless configured.
pub const FLUSH_SIZE_DEFAULT: u32 = 1 << 20;
/// Room for blocks just written that is used on devices unless configured.
pub const POST_WRITE_CACHE_DEFAULT: u64 = 256 << 20;

choices! {
    /// How records are compressed on their medium.
    pub enum Compression {
        /// Not at all.
        None = "none",
        /// LZ4.
        Lz4 = "lz4",
        /// Snappy.
        Snappy = "snappy",
        /// Zstandard.
        Zstd = "zstd",
    }

    /// How records are encrypted on their medium.
    pub enum Encryption {
        /// AES with 128 bits.
        Aes128 = "aes-128",
        /// AES with 256 bits.
        Aes256 = "aes-256",
    }
}

params! {
    /// The `storage-engine` context.
    pub struct StorageParams {
        /// Raw device, and with storage-engine device perhaps its shadow; may be repeated.
        device: List<Backing> = [], backings("device").only(MEMORY | DEVICE).hidden();
        /// File, and with storage-engine device or pmem perhaps its shadow; may be repeated.
        file: List<Backing> = [], backings("file").hidden();
        /// Caches what other nodes write here as replicas.
        cache_replica_writes: Flag = false, boolean("cache-replica-writes").dynamic().only(DEVICE).later();
        /// Ignores what the devices hold at start.
        cold_start_empty: Flag = false, boolean("cold-start-empty").only(DEVICE);
        /// Acknowledges a write only when it is on the device.
        commit_to_device: Flag = false, boolean("commit-to-device").enterprise();
        /// How records are compressed.
        compression: Choice<Compression> = Compression::None,
            choice::<Compression>("compression").dynamic().enterprise();
        /// Speed of LZ4 at the cost of space.
        compression_acceleration: Number<u32> = 0,
            number("compression-acceleration", 1, 65_537).dynamic().enterprise().note("1 with lz4");
        /// Effort of Zstandard.
        compression_level: Number<u32> = 0,
            number("compression-level", 1, 9).dynamic().enterprise().note("9 with zstd");
        /// Memory for the records of the namespace.
        data_size: Number<u64> = 0, size("data-size", 256 << 20, 256 << 40).only(MEMORY)
            .note("must be given unless there are files or devices");
        /// Write blocks filled less than this, in percent, are rewritten.
        defrag_lwm_pct: Number<u32> = 50, any_u32("defrag-lwm-pct").dynamic();
        /// Write blocks that must wait before rewriting begins.
        defrag_queue_min: Number<u32> = 0, any_u32("defrag-queue-min").dynamic();
        /// Microseconds to sleep after each rewritten write block.
        defrag_sleep: Number<u32> = 1_000, any_u32("defrag-sleep").dynamic();
        /// Share of the device, in percent, that must be free before the server starts to serve.
        defrag_startup_minimum: Number<u32> = 0, number("defrag-startup-minimum", 0, 99);
        /// Bypasses the system's cache for files too.
        direct_files: Flag = false, boolean("direct-files");
        /// Does not wait for the device to confirm each write.
        disable_odsync: Flag = false, boolean("disable-odsync");
        /// Measures reads and writes of devices.
        enable_benchmarks_storage: Flag = false, boolean("enable-benchmarks-storage").dynamic();
        /// How records are encrypted if there is a key file.
        encryption: Choice<Encryption> = Encryption::Aes128,
            choice::<Encryption>("encryption").enterprise().shown_by(ENCRYPTED);
        /// File with the key that encrypts records.
        encryption_key_file: Text = None, text("encryption-key-file").enterprise();
        /// File with the key that encrypted records before.
        encryption_old_key_file: Text = None, text("encryption-old-key-file").enterprise();
        /// Evicts when more than this share of the medium is used, in percent; 0 means never.
        evict_used_pct: Number<u32> = 0, number("evict-used-pct", 0, 100).dynamic();
        /// Size of each file.
        filesize: Number<u64> = 0, size("filesize", 128 << 20, 2 << 40)
            .note("must be given if there are files");
        /// Milliseconds after which an unfilled write block is written to the device; 0 means never.
        flush_max_ms: Number<u64> = 1_000, any_u64("flush-max-ms").dynamic();
        /// Bytes written to the device at a time.
        flush_size: Number<u32> = 0,
            size_power_of_2("flush-size", 4 << 10, 8 << 20).dynamic().only(MEMORY | DEVICE)
            .shown_by(BACKED | DEVICE).note("1M if there are files or devices");
        /// Write blocks that may wait for each device; more is refused with "device overload".
        max_write_cache: Number<u64> = 64 << 20, size("max-write-cache", 64 << 20, u64::MAX).dynamic();
        /// Memory per device for write blocks just written.
        post_write_cache: Number<u64> = 0, size("post-write-cache", 0, u64::MAX).dynamic().only(DEVICE)
            .note("256M");
        /// Lets the system cache what is read from devices.
        read_page_cache: Flag = false, boolean("read-page-cache").dynamic().only(DEVICE);
        /// Searches one device at a time for tombstones that may be removed.
        serialize_tomb_raider: Flag = false, boolean("serialize-tomb-raider").enterprise().only(DEVICE).later();
        /// Fills secondary indexes at start by reading devices rather than the primary index.
        sindex_startup_device_scan: Flag = false, boolean("sindex-startup-device-scan").only(DEVICE).later();
        /// Refuses writes when fewer write blocks than this are free, in percent.
        stop_writes_avail_pct: Number<u32> = 5, number("stop-writes-avail-pct", 0, 100).dynamic();
        /// Refuses writes when more than this share of the medium is used, in percent; 0 means never.
        stop_writes_used_pct: Number<u32> = 70, number("stop-writes-used-pct", 0, 100).dynamic();
        /// Microseconds to sleep after each write block searched for tombstones.
        tomb_raider_sleep: Number<u32> = 1_000, any_u32("tomb-raider-sleep").dynamic().enterprise();
    }
}

/// Engines that a `storage-engine` line may name, with the bit that stands for each in the table.
pub const ENGINES: [(&str, u8); 3] = [("memory", MEMORY), ("pmem", PMEM), ("device", DEVICE)];
