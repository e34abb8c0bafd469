//! Answers about buckets and names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Health, PutReport};

words! {
    /// What a key of a bucket is.
    NameKind {
        /// A file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// It was deleted.
        Deleted = "deleted",
    }
}

/// A bucket of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// All buckets of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketList {
    /// By name.
    pub buckets: Vec<Bucket>,
}

/// What became of a bucket that was to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBucket {
    /// Its name.
    pub bucket: String,
    /// Whether there was none of this name.
    pub new: bool,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedName {
    /// The key.
    pub name: String,
    /// What it is.
    pub kind: NameKind,
    /// Bytes of a file.
    pub size_bytes: u64,
    /// When it was modified, RFC 3339; of what was deleted, when that was.
    pub modified: String,
    /// The same in Unix nanoseconds.
    pub modified_ns: i64,
    /// Whether a file is executable.
    pub executable: bool,
    /// The version, 32 hexadecimal digits.
    pub version: String,
    /// When this version was written, RFC 3339.
    pub written: String,
    /// Another device wrote the key at the same time; the older version is kept.
    pub conflict: bool,
    /// Of a file: its link.
    pub link: Option<String>,
    /// Of a file, where that was asked for: how it is doing.
    pub health: Option<Health>,
}

/// A page of the keys of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameList {
    /// In the order of their bytes.
    pub files: Vec<ListedName>,
    /// Of keys that go on behind the delimiter, what comes up to it.
    pub prefixes: Vec<String>,
    /// What to give as `after` for the next page; none on the last one.
    pub next: Option<String>,
}

/// What became of a file that was put into a bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamedPut {
    /// The file; none of a directory.
    #[serde(flatten)]
    pub file: Option<PutReport>,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version of the key, 32 hexadecimal digits; none while the file has no key yet.
    pub version: Option<String>,
}

/// What became of a key that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedName {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version of the deletion, 32 hexadecimal digits.
    pub version: String,
}

/// Changes of one bucket, all or none in the eyes of other devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Files that were stored with `stage=1` get their keys.
    pub enter: Vec<Enter>,
    /// Directories that are made, or get another time.
    pub directories: Vec<EnterDirectory>,
    /// Keys that are copied or moved.
    pub copy: Vec<CopyName>,
    /// Keys that are marked as deleted.
    pub remove: Vec<RemoveName>,
}

/// A stored file and the key it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enter {
    /// The key.
    pub key: String,
    /// Its link.
    pub link: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// When it was modified, Unix nanoseconds.
    pub modified_ns: i64,
    /// Whether it is executable.
    #[serde(default)]
    pub executable: bool,
}

/// A directory and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnterDirectory {
    /// The key, which ends in `/`.
    pub key: String,
    /// When it was modified, Unix nanoseconds.
    pub modified_ns: i64,
}

/// A key that gets what another one has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyName {
    /// The key, or what all keys begin with.
    pub from: String,
    /// The key, or what all keys begin with then.
    pub to: String,
    /// The bucket it is in then; none: the same.
    #[serde(default)]
    pub bucket: Option<String>,
    /// All keys that begin with `from`.
    #[serde(default)]
    pub recursive: bool,
    /// What it was at this version, 32 hexadecimal digits.
    #[serde(default)]
    pub version: Option<String>,
    /// The old key is marked as deleted.
    #[serde(default)]
    pub moved: bool,
}

/// A key that is marked as deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveName {
    /// The key, or what all keys begin with.
    pub key: String,
    /// All keys that begin with it.
    #[serde(default)]
    pub recursive: bool,
}

/// What holds for a whole bucket, by name. Absent ones are as they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The settings that were set.
    pub settings: BTreeMap<String, String>,
}

/// A device that wrote something of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What it is called.
    pub device: String,
    /// The bucket; empty for what is said of the account itself.
    pub bucket: String,
    /// The number that it writes under, 16 hexadecimal digits.
    pub writer: String,
    /// When it last wrote, which it does daily at least, RFC 3339; none if it never did.
    pub written: Option<String>,
    /// It is this one.
    pub this: bool,
}

/// The devices of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// By bucket.
    pub devices: Vec<Device>,
}

/// An account that a daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// The first 16 hexadecimal digits of the public key of its home bucket.
    pub account: String,
}

/// The accounts that a daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountList {
    /// The account of the data directory, and no other.
    pub accounts: Vec<AccountInfo>,
}

/// What became of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReport {
    /// Keys that were written.
    pub written: u64,
}
