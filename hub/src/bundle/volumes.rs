//! The files of a bundle: read piece by piece, put in order, checked to be of one bundle.

use std::fs::File;
use std::io::{Read, Seek};

use protocol::bundle::{
    BundleError, Digest, Header, HubSecret, Kind, PRELUDE_BYTES, Piece, Record, VolumeReader,
    read_prelude,
};

use super::ImportError;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// A file that should be a volume.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(super) name: String,
    pub(super) file: File,
    header: Option<Header>,
}

impl Volume {
    /// Takes an open file; `name` stands in errors.
    pub(crate) fn new(name: String, file: File) -> Self {
        Self {
            name,
            file,
            header: None,
        }
    }

    pub(super) fn io(&self, source: std::io::Error) -> ImportError {
        ImportError::File {
            name: self.name.clone(),
            source,
        }
    }

    pub(super) fn broken(&self, source: BundleError) -> ImportError {
        ImportError::Volume {
            name: self.name.clone(),
            source,
        }
    }

    /// Returns what the file is.
    fn kind(&mut self) -> Result<Kind, ImportError> {
        let mut head = [0; PRELUDE_BYTES];
        self.file.rewind().map_err(|error| self.io(error))?;
        match self.file.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(self.broken(BundleError::Cut));
            }
            read => read.map_err(|error| self.io(error))?,
        }
        let (kind, _) = read_prelude(&head).map_err(|error| self.broken(error))?;
        Ok(kind)
    }

    /// Reads the file from its beginning and hands over its pieces, until `see` has seen enough.
    fn read(
        &mut self,
        reader: &mut VolumeReader<'_>,
        see: &mut dyn FnMut(&mut VolumeReader<'_>, Piece) -> Result<bool, ImportError>,
    ) -> Result<(), ImportError> {
        self.file.rewind().map_err(|error| self.io(error))?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let length = match self.file.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| self.io(error))?,
            };
            if length == 0 {
                return Ok(());
            }
            reader.push(buffer.get(..length).unwrap_or_default());
            while let Some(piece) = reader.pop().map_err(|error| self.broken(error))? {
                if !see(reader, piece)? {
                    return Ok(());
                }
            }
        }
    }

    fn read_header(&mut self) -> Result<Header, ImportError> {
        let mut header = None;
        let mut reader = VolumeReader::new(None);
        self.read(&mut reader, &mut |_, piece| {
            if let Piece::Header(found) = piece {
                header = Some(*found);
            }
            Ok(false)
        })?;
        match header {
            Some(header) => Ok(header),
            None => Err(self.broken(reader.finish().err().unwrap_or(BundleError::Cut))),
        }
    }

    /// Reads the whole volume: hands over the records of each chunk and returns the digest, once
    /// the signature has been checked.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or what `see` says.
    pub(super) fn walk(
        &mut self,
        secret: &HubSecret,
        public_key: &[u8],
        see: &mut dyn FnMut(Vec<Record>) -> Result<(), ImportError>,
    ) -> Result<Digest, ImportError> {
        let mut reader = VolumeReader::new(Some(secret));
        let mut digest = None;
        let header = self.header.clone();
        let name = self.name.clone();
        self.read(&mut reader, &mut |reader, piece| {
            match piece {
                Piece::Header(found) => {
                    if header.as_ref() != Some(&*found) {
                        // Somebody exchanged the file since its header was looked at.
                        return Err(ImportError::OtherBundle { name: name.clone() });
                    }
                    reader.expect_signer(public_key.to_vec());
                }
                Piece::Records(records) => see(records)?,
                Piece::End(found) => digest = Some(found),
            }
            Ok(true)
        })?;
        reader.finish().map_err(|error| self.broken(error))?;
        digest.ok_or_else(|| self.broken(BundleError::Cut))
    }
}

/// Says what the first file is. Blocks.
///
/// # Errors
///
/// When it cannot be read, or is none of ours.
pub(super) fn kind(mut files: Vec<Volume>) -> Result<(Kind, Vec<Volume>), ImportError> {
    let first = files.first_mut().ok_or(ImportError::Broken)?;
    let kind = first.kind()?;
    Ok((kind, files))
}

/// Puts the files in the order of their volumes and checks that they are all of one bundle.
/// Returns the header of the first. Blocks.
///
/// # Errors
///
/// When a file is no volume, is of another bundle, or one is missing.
pub(super) fn sort(mut files: Vec<Volume>) -> Result<(Vec<Volume>, Header), ImportError> {
    for file in &mut files {
        file.header = Some(file.read_header()?);
    }
    let place = |file: &Volume| file.header.as_ref().map_or(0, |header| header.volume);
    files.sort_by_key(place);
    let first = files.first().and_then(|file| file.header.clone());
    let Some(first) = first else {
        return Err(ImportError::Broken);
    };
    let (number, volumes) = (first.number, first.volumes);
    for (want, file) in (1u32..).zip(&files) {
        let Some(header) = &file.header else {
            return Err(ImportError::Broken);
        };
        let same = Header {
            volume: header.volume,
            previous: header.previous,
            ..first.clone()
        };
        if *header != same || header.volume < want {
            return Err(ImportError::OtherBundle {
                name: file.name.clone(),
            });
        }
        if header.volume > want {
            return Err(ImportError::MissingVolume {
                volume: want,
                volumes,
                number,
            });
        }
    }
    let count = u32::try_from(files.len()).unwrap_or(u32::MAX);
    if count < volumes {
        return Err(ImportError::MissingVolume {
            volume: count + 1,
            volumes,
            number,
        });
    }
    Ok((files, first))
}

/// The digests of a bundle's volumes as they are found.
#[derive(Debug, Default)]
pub(super) struct Digests {
    /// That of the last volume.
    pub(super) last: Digest,
    count: u32,
}

impl Digests {
    /// Adds a volume, which must name the one before it.
    pub(super) fn add(&mut self, volume: &Volume, digest: Digest) -> Result<(), ImportError> {
        let previous = volume.header.as_ref().map(|header| header.previous);
        if self.count > 0 && previous != Some(self.last) {
            return Err(ImportError::OtherBundle {
                name: volume.name.clone(),
            });
        }
        self.last = digest;
        self.count += 1;
        Ok(())
    }
}
