//! Rows of Parquet files, as JSON values like those of the other formats.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Fields};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use super::BadRow;
use super::row::{Row, Rows};
use crate::error::DatasetError;

/// Rows decoded at a time.
const BATCH: usize = 256;

/// Reads the `wanted` columns, each with the setting that names it, or all columns for `None`, batch by batch.
pub(super) fn open(path: &Path, wanted: Option<&[(&'static str, String)]>) -> Result<Rows, DatasetError> {
    let file = fs_err::File::open(path).map_err(DatasetError::io("read", path))?.into_parts().0;
    if file.metadata().map_err(DatasetError::io("read", path))?.len() == 0 {
        return Ok(Box::new(std::iter::empty()));
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(DatasetError::parquet(path))?;
    let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut roots = Vec::new();
    for (setting, column) in wanted.unwrap_or_default() {
        let Some(root) = names.iter().position(|name| name == column) else {
            let (path, column) = (path.to_path_buf(), column.clone());
            return Err(DatasetError::MissingColumn { path, column, setting, available: names });
        };
        roots.push(root);
    }
    let mask = match wanted {
        Some(_) => ProjectionMask::roots(builder.parquet_schema(), roots),
        None => ProjectionMask::all(),
    };
    let builder = builder.with_projection(mask).with_batch_size(BATCH);
    let batches = builder.build().map_err(DatasetError::parquet(path))?;
    let (path, mut line) = (path.to_path_buf(), 0);
    Ok(Box::new(batches.flat_map(move |batch| {
        match batch {
            Ok(batch) => (0..batch.num_rows())
                .map(|index| {
                    line += 1;
                    Ok(row(&batch, index, line))
                })
                .collect(),
            Err(error) => vec![Err(DatasetError::parquet(&path)(error))],
        }
    })))
}

fn row(batch: &RecordBatch, index: usize, line: usize) -> Result<Row, BadRow> {
    object(batch.schema_ref().fields(), batch.columns(), index)
        .map(|columns| Row { file: None, line, columns })
        .map_err(|reason| BadRow::new(line, reason))
}

fn object(fields: &Fields, columns: &[ArrayRef], index: usize) -> Result<Map<String, Value>, String> {
    fields
        .iter()
        .zip(columns)
        .map(|(field, array)| Ok((field.name().clone(), value(array, index)?)))
        .collect()
}

/// Entry `index` of a column; an error for types that hold neither text nor messages.
fn value(array: &ArrayRef, index: usize) -> Result<Value, String> {
    if array.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(index).into(),
        DataType::Utf8View => array.as_string_view().value(index).into(),
        DataType::Boolean => array.as_boolean().value(index).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(index).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(index).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(index).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(index).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(index).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(index).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(index).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(index).into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(index).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(index).into(),
        DataType::List(_) => list(&array.as_list::<i32>().value(index))?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(index))?,
        DataType::Struct(fields) => object(fields, array.as_struct().columns(), index)?.into(),
        other => return Err(format!("a column of type {other} cannot be read as text or messages")),
    })
}

fn list(items: &ArrayRef) -> Result<Value, String> {
    (0..items.len()).map(|index| value(items, index)).collect()
}
