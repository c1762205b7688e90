//! One value of an Arrow column as a JSON value: numbers, text, lists and objects as such, any other type as the text
//! that Python gives it.

use std::fmt::Write;

use arrow_array::cast::AsArray;
use arrow_array::timezone::Tz;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, downcast_dictionary_array};
use arrow_schema::{DataType, Field, FieldRef, Fields, TimeUnit};
use chrono::{NaiveDateTime, NaiveTime, Timelike};
use serde_json::{Map, Value};

use super::python_text;

/// What happens to a field of an object whose type is not read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Unread {
    /// The value is an error: all fields of a turn of a conversation are needed.
    Fails,
    /// The field has the reason instead: only a template that writes it fails.
    Marked,
    /// The object lacks the field: responses of other programs have fields that nobody needs.
    LeftOut,
}

/// The only field of an object in place of a value that is not read.
const UNREAD: &str = "$jacobi::unread";

/// Why a value is not read, if it is not.
pub(super) fn unread_reason(value: &Value) -> Option<&str> {
    value.get(UNREAD)?.as_str()
}

/// Entry `index` of a column, or what it is instead of a value.
pub(super) fn of(field: &Field, array: &dyn Array, index: usize, unread: Unread) -> Result<Value, String> {
    if array.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(index).into(),
        DataType::Utf8 => array.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(index).into(),
        DataType::Utf8View => array.as_string_view().value(index).into(),
        DataType::Binary => bytes(field, array.as_binary::<i32>().value(index))?,
        DataType::LargeBinary => bytes(field, array.as_binary::<i64>().value(index))?,
        DataType::BinaryView => bytes(field, array.as_binary_view().value(index))?,
        DataType::FixedSizeBinary(_) => bytes(field, array.as_fixed_size_binary().value(index))?,
        DataType::List(item) => list(item, &array.as_list::<i32>().value(index), unread)?,
        DataType::LargeList(item) => list(item, &array.as_list::<i64>().value(index), unread)?,
        DataType::ListView(item) => list(item, &array.as_list_view::<i32>().value(index), unread)?,
        DataType::LargeListView(item) => list(item, &array.as_list_view::<i64>().value(index), unread)?,
        DataType::FixedSizeList(item, _) => list(item, &array.as_fixed_size_list().value(index), unread)?,
        DataType::Struct(fields) => object(fields, array.as_struct().columns(), index, unread)?,
        DataType::Map(..) => map(&array.as_map().value(index), unread)?,
        DataType::Dictionary(..) => downcast_dictionary_array!(
            array => of(field, array.values(), array.key(index).expect("it is not null"), unread)?,
            other => unreachable!("{other} is no dictionary")
        ),
        data_type => number(array, index).or_else(|| time(array, index)).ok_or_else(|| {
            format!("a value of the type {data_type}, or a time out of range, which is not read")
        })?,
    })
}

/// UTF-8 is text, and a UUID has its dashes.
fn bytes(field: &Field, bytes: &[u8]) -> Result<Value, String> {
    if field.extension_type_name() == Some("arrow.uuid") && bytes.len() == 16 {
        let mut text = String::new();
        for (index, byte) in bytes.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&index) { "-" } else { "" };
            write!(text, "{dash}{byte:02x}").expect("a String takes all text");
        }
        return Ok(text.into());
    }
    let reason = "binary, and not UTF-8 text: write it as text, for instance as hex digits";
    std::str::from_utf8(bytes).map(Value::from).map_err(|_| reason.to_owned())
}

fn list(item: &FieldRef, items: &ArrayRef, unread: Unread) -> Result<Value, String> {
    let value = |index| of(item, items, index, unread);
    (0..items.len()).map(value).collect::<Result<_, _>>().map_err(|reason| format!("a list with {reason}"))
}

fn object(fields: &Fields, columns: &[ArrayRef], index: usize, unread: Unread) -> Result<Value, String> {
    let mut object = Map::new();
    for (field, array) in fields.iter().zip(columns) {
        match of(field, array, index, unread) {
            Ok(value) => drop(object.insert(field.name().clone(), value)),
            Err(_) if unread == Unread::LeftOut => {}
            Err(reason) if unread == Unread::Marked => {
                let reason = format!("`{}` is {reason}", field.name());
                object.insert(field.name().clone(), serde_json::json!({ UNREAD: reason }));
            }
            Err(reason) => return Err(format!("an object whose field `{}` is {reason}", field.name())),
        }
    }
    Ok(object.into())
}

/// An object if the keys are text, otherwise a list of pairs.
fn map(entries: &arrow_array::StructArray, unread: Unread) -> Result<Value, String> {
    let (fields, columns) = (entries.fields(), entries.columns());
    let pair = |index| {
        let of = |column: usize| of(&fields[column], &columns[column], index, unread);
        Ok((of(0)?, of(1)?))
    };
    let pairs = (0..entries.len()).map(pair).collect::<Result<Vec<_>, String>>();
    let pairs = pairs.map_err(|reason| format!("a map with {reason}"))?;
    if pairs.iter().all(|(key, _)| key.is_string()) {
        let key = |key: Value| key.as_str().unwrap_or_default().to_owned();
        return Ok(pairs.into_iter().map(|(name, value)| (key(name), value)).collect::<Map<_, _>>().into());
    }
    Ok(pairs.into_iter().map(|(key, value)| Value::from(vec![key, value])).collect())
}

fn number(array: &dyn Array, index: usize) -> Option<Value> {
    fn of<T: ArrowPrimitiveType>(array: &dyn Array, index: usize) -> T::Native {
        array.as_primitive::<T>().value(index)
    }
    fn decimal<T: DecimalType>(array: &dyn Array, index: usize, scale: i8) -> Value
    where
        T::Native: std::fmt::Display,
    {
        python_text::decimal(&of::<T>(array, index).to_string(), scale).into()
    }
    Some(match *array.data_type() {
        DataType::Int8 => of::<Int8Type>(array, index).into(),
        DataType::Int16 => of::<Int16Type>(array, index).into(),
        DataType::Int32 => of::<Int32Type>(array, index).into(),
        DataType::Int64 => of::<Int64Type>(array, index).into(),
        DataType::UInt8 => of::<UInt8Type>(array, index).into(),
        DataType::UInt16 => of::<UInt16Type>(array, index).into(),
        DataType::UInt32 => of::<UInt32Type>(array, index).into(),
        DataType::UInt64 => of::<UInt64Type>(array, index).into(),
        DataType::Float16 => float(of::<Float16Type>(array, index).to_f64()),
        DataType::Float32 => float(of::<Float32Type>(array, index).into()),
        DataType::Float64 => float(of::<Float64Type>(array, index)),
        DataType::Decimal32(_, scale) => decimal::<Decimal32Type>(array, index, scale),
        DataType::Decimal64(_, scale) => decimal::<Decimal64Type>(array, index, scale),
        DataType::Decimal128(_, scale) => decimal::<Decimal128Type>(array, index, scale),
        DataType::Decimal256(_, scale) => decimal::<Decimal256Type>(array, index, scale),
        _ => return None,
    })
}

/// As in JSON files: NaN is a missing value, and infinity is text.
fn float(value: f64) -> Value {
    match value {
        f64::INFINITY => "inf".into(),
        f64::NEG_INFINITY => "-inf".into(),
        value => value.into(),
    }
}

/// A date, a time or a duration as text; `None` out of the range of years that chrono has, too.
fn time(array: &dyn Array, index: usize) -> Option<Value> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    let text = match array.data_type() {
        DataType::Date32 => array.as_primitive::<Date32Type>().value_as_date(index)?.to_string(),
        DataType::Date64 => array.as_primitive::<Date64Type>().value_as_date(index)?.to_string(),
        DataType::Time32(Second) => clock(array.as_primitive::<Time32SecondType>().value_as_time(index)?),
        DataType::Time32(_) => clock(array.as_primitive::<Time32MillisecondType>().value_as_time(index)?),
        DataType::Time64(Microsecond) => {
            clock(array.as_primitive::<Time64MicrosecondType>().value_as_time(index)?)
        }
        DataType::Time64(_) => clock(array.as_primitive::<Time64NanosecondType>().value_as_time(index)?),
        DataType::Timestamp(Second, zone) => stamp::<TimestampSecondType>(array, index, zone.as_deref())?,
        DataType::Timestamp(Millisecond, zone) => {
            stamp::<TimestampMillisecondType>(array, index, zone.as_deref())?
        }
        DataType::Timestamp(Microsecond, zone) => {
            stamp::<TimestampMicrosecondType>(array, index, zone.as_deref())?
        }
        DataType::Timestamp(Nanosecond, zone) => {
            stamp::<TimestampNanosecondType>(array, index, zone.as_deref())?
        }
        DataType::Duration(unit) => {
            let (value, scale) = match unit {
                Second => (array.as_primitive::<DurationSecondType>().value(index), 1_000_000_000),
                Millisecond => (array.as_primitive::<DurationMillisecondType>().value(index), 1_000_000),
                Microsecond => (array.as_primitive::<DurationMicrosecondType>().value(index), 1000),
                Nanosecond => (array.as_primitive::<DurationNanosecondType>().value(index), 1),
            };
            python_text::duration(i128::from(value) * scale, *unit == Nanosecond)
        }
        _ => return None,
    };
    Some(text.into())
}

/// To microseconds, like Python.
fn clock(time: NaiveTime) -> String {
    format!("{}{}", time.format("%H:%M:%S"), python_text::fraction(time.nanosecond() / 1000 * 1000))
}

fn stamp<T: ArrowTimestampType>(array: &dyn Array, index: usize, zone: Option<&str>) -> Option<String> {
    let array = array.as_primitive::<T>();
    let text = |local: NaiveDateTime| {
        format!("{}{}", local.format("%Y-%m-%d %H:%M:%S"), python_text::fraction(local.nanosecond()))
    };
    match zone {
        None => array.value_as_datetime(index).map(text),
        Some(zone) => {
            let time = array.value_as_datetime_with_tz(index, zone.parse::<Tz>().ok()?)?;
            Some(format!("{}{}", text(time.naive_local()), time.format("%:z")))
        }
    }
}
