//! Rows of Parquet files, as JSON values like those of the other formats.

use std::fs::File;
use std::io::BufRead;
use std::path::Path;

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::arrow_value;
use super::row::{Names, Row, Rows, Wanted};
use super::{BadRow, Place};
use crate::error::DatasetError;

/// Rows decoded at a time.
const BATCH: usize = 256;

/// Reads the `wanted` columns, or all columns for `None`, batch by batch.
pub(super) fn open(path: &Path, file: File, wanted: Option<&[Wanted]>) -> Result<Rows, DatasetError> {
    let metadata = metadata(&file).map_err(DatasetError::parquet(path))?;
    let names: Vec<String> = metadata.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut roots = Vec::new();
    for Wanted { column, setting } in wanted.unwrap_or_default() {
        let mut places = (0..names.len()).filter(|&root| names[root] == *column);
        match (places.next(), places.next(), *setting) {
            (Some(_), Some(_), _) => {
                return Err(DatasetError::several_columns(path, column));
            }
            (Some(root), None, _) => roots.push(root),
            (None, _, Some(setting)) => {
                let (path, column) = (path.to_path_buf(), column.clone());
                return Err(DatasetError::MissingColumn { path, column, setting, available: names });
            }
            (None, _, None) => {}
        }
    }
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let mask = match wanted {
        Some(_) => ProjectionMask::roots(builder.parquet_schema(), roots),
        None => ProjectionMask::all(),
    };
    let builder = builder.with_projection(mask).with_batch_size(BATCH);
    let batches = builder.build().map_err(DatasetError::parquet(path))?;
    Ok(rows(path, batches, Names::of(wanted)))
}

/// A file that does not start like Parquet: no rows if it is empty, otherwise the reader's error.
pub(super) fn open_other(path: &Path, mut text: Box<dyn BufRead>) -> Result<Rows, DatasetError> {
    if text.fill_buf().map_err(DatasetError::io("read", path))?.is_empty() {
        return Ok(Box::new(std::iter::empty()));
    }
    let file = fs_err::File::open(path).map_err(DatasetError::io("read", path))?.into_parts().0;
    open(path, file, None)
}

/// The schema of a file. The Arrow schema that some writers store in it tells what Parquet's own does not (time zones,
/// durations), but it may have types that are unknown here.
fn metadata(file: &File) -> Result<ArrowReaderMetadata, ParquetError> {
    let own = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ArrowReaderMetadata::load(file, ArrowReaderOptions::new())
        .or_else(|error| ArrowReaderMetadata::load(file, own).map_err(|_| error))
}

fn rows(path: &Path, batches: ParquetRecordBatchReader, names: Names) -> Rows {
    let (path, mut count) = (path.to_path_buf(), 0);
    Box::new(batches.flat_map(move |batch| {
        match batch {
            Ok(batch) => (0..batch.num_rows())
                .map(|index| {
                    count += 1;
                    Ok(row(&batch, index, Place::Row(count), &names))
                })
                .collect(),
            Err(error) => vec![Err(DatasetError::parquet(&path)(error))],
        }
    }))
}

fn row(batch: &RecordBatch, index: usize, at: Place, names: &Names) -> Result<Row, BadRow> {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    let value = |(field, array): (&arrow_schema::FieldRef, &arrow_array::ArrayRef)| {
        let value = arrow_value::of(field, array, index, names.unread(field.name()));
        let named = |reason| BadRow::new(at, format!("`{}` is {reason}", field.name()));
        Ok((field.name().clone(), value.map_err(named)?))
    };
    Ok(Row { file: None, at, columns: fields.map(value).collect::<Result<_, BadRow>>()? })
}

#[cfg(test)]
mod tests;
