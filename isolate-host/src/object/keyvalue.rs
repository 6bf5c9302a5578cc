//! `wasi:keyvalue` draft 2, for code that was written for it: another way to the object's own data, and to no other's.
//!
//! There is one bucket, `default`, and its keys are those of `berth:object/storage` that are text. Everything counts as it
//! does there: turns, quota, bounds. `batch` is all or nothing only as far as its turn is.

use bytes::Bytes;
use wasmtime::component::Resource;

use super::state::Object;
use super::storage::{KeyRange, Order};
use crate::guest::Guest;
use crate::object_bindings::berth::object::storage::Error as StorageError;
use crate::object_bindings::keyvalue::wasi::keyvalue::{atomics, batch, store};
use store::Error;

/// The name of the one bucket.
const BUCKET: &str = "default";

/// A handle of the object's data.
pub struct Bucket;

/// A value as it was when somebody looked.
pub struct Cas {
    key: Bytes,
    seen: Option<Bytes>,
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        Self::Other(match error {
            StorageError::KeyLength => "key-length".to_owned(),
            StorageError::ValueLength => "value-length".to_owned(),
            StorageError::Quota => "quota".to_owned(),
            StorageError::TooMuchAtOnce => "too-much-at-once".to_owned(),
            StorageError::NotANumber => "not-a-number".to_owned(),
            StorageError::Overflow => "overflow".to_owned(),
            StorageError::Unavailable(reason) => reason,
        })
    }
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl Object {
    async fn list_text_keys(&self, cursor: Option<String>) -> Result<store::KeyResponse, Error> {
        let range = KeyRange { start: cursor.map(Bytes::from), end: None };
        let page = self.scan(range, Order::Up, 0).await?;
        let text = |key: &Bytes| std::str::from_utf8(key).ok().map(str::to_owned);
        let keys: Vec<String> = page.entries.iter().filter_map(|(key, _)| text(key)).collect();
        // The first text after the last key: it is the key with a zero behind it.
        let last = page.entries.last().filter(|_| page.more);
        let cursor = match last {
            Some((key, _)) => Some(text(key).map(|key| key + "\0").ok_or_else(|| {
                Error::Other("the keys are no text; berth:object/storage has a scan".to_owned())
            })?),
            None => None,
        };
        Ok(store::KeyResponse { keys, cursor })
    }

    async fn look_for_swap(&self, key: Bytes) -> Result<Cas, Error> {
        let seen = self.get(&key).await?;
        Ok(Cas { key, seen })
    }

    /// Writes if the value is still the one that was seen; else it tells the one that is there.
    async fn swap(&self, cas: Cas, value: Bytes) -> Result<Result<(), Cas>, Error> {
        let now = self.get(&cas.key).await?;
        if now != cas.seen {
            return Ok(Err(Cas { seen: now, ..cas }));
        }
        self.put(cas.key, value, Some(now.as_ref())).await?;
        Ok(Ok(()))
    }
}

impl store::Host for Guest {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        if identifier != BUCKET {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.push(Bucket)?))
    }
}

impl store::HostBucket for Guest {
    async fn get(&mut self, _: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let value = self.object()?.get(key.as_bytes()).await;
        Ok(value.map(|value| value.map(Vec::from)).map_err(Error::from))
    }

    async fn set(&mut self, _: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        Ok(self.object()?.put(key.into(), value.into(), None).await.map_err(Error::from))
    }

    fn delete(&mut self, _: Resource<Bucket>, key: String) -> Answer<()> {
        Ok(self.object()?.delete(key.into(), None).map_err(Error::from))
    }

    async fn exists(&mut self, _: Resource<Bucket>, key: String) -> Answer<bool> {
        let value = self.object()?.get(key.as_bytes()).await;
        Ok(value.map(|value| value.is_some()).map_err(Error::from))
    }

    async fn list_keys(&mut self, _: Resource<Bucket>, cursor: Option<String>) -> Answer<store::KeyResponse> {
        Ok(self.object()?.list_text_keys(cursor).await)
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Guest {
    async fn increment(&mut self, _: Resource<Bucket>, key: String, delta: i64) -> Answer<i64> {
        Ok(self.object()?.increment(key.into(), delta).await.map_err(Error::from))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), atomics::CasError>> {
        let cas = self.table.delete(cas)?;
        Ok(match self.object()?.swap(cas, value.into()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(newer)) => Err(atomics::CasError::CasFailed(self.push(newer)?)),
            Err(error) => Err(atomics::CasError::StoreError(error)),
        })
    }
}

impl atomics::HostCas for Guest {
    async fn new(&mut self, _: Resource<Bucket>, key: String) -> Answer<Resource<Cas>> {
        match self.object()?.look_for_swap(key.into()).await {
            Ok(cas) => Ok(Ok(self.push(cas)?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        Ok(Ok(self.table.get(&cas)?.seen.clone().map(Vec::from)))
    }

    fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

type Found = Vec<(String, Option<Vec<u8>>)>;

impl batch::Host for Guest {
    async fn get_many(&mut self, _: Resource<Bucket>, keys: Vec<String>) -> Answer<Found> {
        let object = self.object()?;
        let mut found = Vec::new();
        for key in keys {
            match object.get(key.as_bytes()).await {
                Ok(value) => found.push((key, value.map(Vec::from))),
                Err(error) => return Ok(Err(error.into())),
            }
        }
        Ok(Ok(found))
    }

    async fn set_many(&mut self, _: Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let object = self.object()?;
        for (key, value) in entries {
            if let Err(error) = object.put(key.into(), value.into(), None).await {
                return Ok(Err(error.into()));
            }
        }
        Ok(Ok(()))
    }

    fn delete_many(&mut self, _: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let object = self.object()?;
        for key in keys {
            if let Err(error) = object.delete(key.into(), None) {
                return Ok(Err(error.into()));
            }
        }
        Ok(Ok(()))
    }
}
