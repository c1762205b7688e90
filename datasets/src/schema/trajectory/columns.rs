//! Trajectories as Arrow columns and back.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::Int32Builder;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, Int32Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};

use super::check::bad_row;
use crate::error::DatasetError;
use crate::schema::trajectory::{FinishReason, State, Trajectory};

/// Index of the column of the states, the last one.
pub(super) const STATES: usize = 4;

/// The columns on disk.
pub(super) fn schema() -> Schema {
    Schema::new(vec![
        Field::new("sample_id", DataType::Utf8, false),
        Field::new("prompt_tokens", DataType::List(id_item()), false),
        Field::new("response_tokens", DataType::List(id_item()), false),
        Field::new("finish_reason", DataType::Utf8, false),
        Field::new("states", DataType::List(state_item()), false),
    ])
}

fn id_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Int32, false))
}

fn state_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Struct(state_fields()), false))
}

fn state_fields() -> Fields {
    let number = |name| Field::new(name, DataType::Int32, false);
    let tail = Field::new("tail", DataType::List(id_item()), false);
    Fields::from(vec![number("block"), number("iteration"), number("converged"), tail])
}

/// Refuses a file whose columns differ in name, order or type. Nullability and the names of list items may
/// differ, because other writers choose their own.
pub(super) fn check_columns(path: &Path, found: &Schema) -> Result<(), DatasetError> {
    let (found, expected) = (describe_fields(found.fields()), describe_fields(schema().fields()));
    if found == expected {
        return Ok(());
    }
    let reason = format!("it has columns {found}, its schema says {expected}");
    Err(DatasetError::Unusable { path: path.to_path_buf(), reason })
}

fn describe_fields(fields: &Fields) -> String {
    let columns: Vec<String> =
        fields.iter().map(|field| format!("{}: {}", field.name(), describe(field.data_type()))).collect();
    columns.join(", ")
}

fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) => format!("list<{}>", describe(item.data_type())),
        DataType::Struct(fields) => format!("struct{{{}}}", describe_fields(fields)),
        DataType::Utf8 => "utf8".to_owned(),
        DataType::Int32 => "i32".to_owned(),
        other => other.to_string(),
    }
}

/// All rows as one batch.
pub(super) fn to_batch(rows: &[Trajectory]) -> Result<RecordBatch, ArrowError> {
    let states: Vec<&State> = rows.iter().flat_map(|row| &row.states).collect();
    let number = |of: fn(&State) -> u32| -> ArrayRef {
        Arc::new(states.iter().map(|state| Some(of(state) as i32)).collect::<Int32Array>())
    };
    let tails = id_lists(states.iter().map(|state| state.tail.as_slice()))?;
    let columns = vec![
        number(|state| state.block),
        number(|state| state.iteration),
        number(|state| state.converged),
        Arc::new(tails),
    ];
    let states = StructArray::try_new_with_length(state_fields(), columns, None, states.len())?;
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.states.len()));
    let states = ListArray::try_new(state_item(), offsets, Arc::new(states), None)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.sample_id))),
        Arc::new(id_lists(rows.iter().map(|row| row.prompt_tokens.as_slice()))?),
        Arc::new(id_lists(rows.iter().map(|row| row.response_tokens.as_slice()))?),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.finish_reason.as_str()))),
        Arc::new(states),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns)
}

fn id_lists<'a>(lists: impl Iterator<Item = &'a [u32]> + Clone) -> Result<ListArray, ArrowError> {
    let mut values = Int32Builder::new();
    for list in lists.clone() {
        for &id in list {
            values.append_value(id as i32);
        }
    }
    ListArray::try_new(
        id_item(),
        OffsetBuffer::from_lengths(lists.map(<[u32]>::len)),
        Arc::new(values.finish()),
        None,
    )
}

/// The rows of a batch with checked columns, whose numbers in the shard are `numbers`. The last column may be missing: then
/// they have no states.
pub(super) fn from_batch(
    path: &Path,
    batch: &RecordBatch,
    numbers: &[usize],
) -> Result<Vec<Trajectory>, DatasetError> {
    let column = |index: usize| batch.column(index);
    let row = |(index, &number): (usize, &usize)| {
        let bad = bad_row(path, number);
        if let Some(null) = batch.columns().iter().position(|column| column.is_null(index)) {
            return Err(bad(format!("{} is null", batch.schema().field(null).name())));
        }
        let finish_reason = column(3).as_string::<i32>().value(index);
        let recorded = batch.columns().get(STATES);
        let recorded = recorded.map(|column| states(&column.as_list::<i32>().value(index))).transpose();
        Ok(Trajectory {
            sample_id: column(0).as_string::<i32>().value(index).to_owned(),
            prompt_tokens: list(&column(1).as_list::<i32>().value(index)).map_err(&bad)?,
            response_tokens: list(&column(2).as_list::<i32>().value(index)).map_err(&bad)?,
            finish_reason: FinishReason::from_name(finish_reason)
                .ok_or_else(|| bad(format!("finish_reason `{finish_reason}` is neither eos nor length")))?,
            states: recorded.map_err(&bad)?.unwrap_or_default(),
        })
    };
    numbers.iter().enumerate().map(row).collect()
}

/// Appends the rows of a batch that has the first two columns only.
pub(super) fn names_and_prompts(
    path: &Path,
    batch: &RecordBatch,
    rows: &mut Vec<(String, Vec<u32>)>,
) -> Result<(), DatasetError> {
    for index in 0..batch.num_rows() {
        let bad = bad_row(path, rows.len() + 1);
        let name = batch.column(0).as_string::<i32>().value(index).to_owned();
        rows.push((name, list(&batch.column(1).as_list::<i32>().value(index)).map_err(&bad)?));
    }
    Ok(())
}

fn states(array: &ArrayRef) -> Result<Vec<State>, String> {
    let array = array.as_struct();
    if array.null_count() > 0 || array.column(3).null_count() > 0 {
        return Err("a state is null".to_owned());
    }
    let [blocks, iterations, converged] = [0, 1, 2].map(|index| list(array.column(index)));
    let (blocks, iterations, converged) = (blocks?, iterations?, converged?);
    let tails = array.column(3).as_list::<i32>();
    let offsets = tails.value_offsets();
    let (first, last) = (offsets[0] as usize, offsets[array.len()] as usize);
    // One array for all tails: an array for each would cost more than its tokens.
    let tokens = list(&tails.values().slice(first, last - first))?;
    let tail = |index: usize| {
        let [start, end] = [offsets[index], offsets[index + 1]].map(|offset| offset as usize - first);
        tokens[start..end].to_vec()
    };
    let state = |index| State {
        block: blocks[index],
        iteration: iterations[index],
        converged: converged[index],
        tail: tail(index),
    };
    Ok((0..array.len()).map(state).collect())
}

fn list(array: &ArrayRef) -> Result<Vec<u32>, String> {
    let array = array.as_primitive::<Int32Type>();
    if array.null_count() > 0 {
        return Err("a number is null".to_owned());
    }
    let number = |&value: &i32| u32::try_from(value).map_err(|_| format!("negative number {value}"));
    array.values().iter().map(number).collect()
}
