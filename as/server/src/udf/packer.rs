//! The forms of Lua values in bins and in answers to clients; `packing` packs lists and maps.

use datamodel::particle::type_number;
use datamodel::{Budget, BytesType, Particle, geojson};
use mlua::Value;
use proto::ResultCode;

use super::native::bytes;
use super::packing::Purpose;
use super::value::{Converter, Output, Plain, ValueError, class, json, to_zero};

/// Steps of work between two looks at the time of the function.
const PORTION_STEPS: u64 = 1_000_000;

/// The reason why a value cannot be stored in a bin.
enum ParticleError {
    Result(ResultCode),
    Value(ValueError),
}

impl From<ValueError> for ParticleError {
    fn from(error: ValueError) -> Self {
        ParticleError::Value(error)
    }
}

/// # Values of Lua to packed values
impl Converter<'_> {
    /// A function's result for a client. A value that has no form there is null.
    pub(super) fn output(&self, value: &Value) -> Result<Output, ValueError> {
        let output = |particle_type, bytes| Ok(Output { particle_type, bytes });
        match value {
            Value::Boolean(value) => Ok(Plain::Boolean(*value).output()),
            Value::Integer(value) => Ok(Plain::Integer(*value).output()),
            Value::Number(value) => Ok(Plain::Number(*value).output()),
            Value::String(text) => Ok(Plain::Text(&text.as_bytes()).output()),
            Value::UserData(proxy) => {
                let Some((class, content)) = self.open(proxy)? else { return Ok(Output::null()) };
                match class {
                    class::LIST => output(type_number::LIST, self.packed(value, Purpose::Result)?),
                    class::MAP => output(type_number::MAP, self.packed(value, Purpose::Result)?),
                    class::BYTES => output(type_number::BLOB, bytes::content(self.lua, proxy)?.0),
                    class::GEOJSON => {
                        output(type_number::GEOJSON, geojson::without_cells(&json(content.as_ref())?))
                    }
                    _ => Ok(Output::null()),
                }
            }
            _ => Ok(Output::null()),
        }
    }

    /// A value in its stored form.
    ///
    /// # Errors
    /// The result of the save if this value makes it impossible.
    pub(super) fn to_particle(&self, value: &Value) -> Result<Particle<'static>, ResultCode> {
        self.particle(value).map_err(|error| match error {
            ParticleError::Result(result) => result,
            ParticleError::Value(ValueError::Timeout) => ResultCode::Timeout,
            ParticleError::Value(ValueError::Size | ValueError::Depth) => ResultCode::RecordTooBig,
            ParticleError::Value(_) => ResultCode::IncompatibleType,
        })
    }

    fn particle(&self, value: &Value) -> Result<Particle<'static>, ParticleError> {
        Ok(match value {
            Value::Boolean(value) => Particle::Bool(*value),
            Value::Integer(value) => Particle::Integer(*value),
            Value::Number(value) => Particle::Float(*value),
            Value::String(text) => Particle::owned(BytesType::String, to_zero(&text.as_bytes()).to_vec()),
            Value::UserData(proxy) => {
                let (class, content) = self.open(proxy)?.ok_or(ValueError::Type)?;
                match class {
                    class::LIST => self.container(type_number::LIST, value)?,
                    class::MAP => self.container(type_number::MAP, value)?,
                    class::BYTES => {
                        let (bytes, kind) = bytes::content(self.lua, proxy)?;
                        Particle::owned(blob_type(kind), bytes)
                    }
                    class::GEOJSON => {
                        let json = json(content.as_ref())?;
                        let stored = match self.within_time(|budget| geojson::from_json(&json, budget)) {
                            Err(ResultCode::Timeout) => return Err(ValueError::Timeout.into()),
                            // Text that is no GeoJSON is kept unchanged.
                            stored => stored.unwrap_or_else(|_| geojson::without_cells(&json)),
                        };
                        Particle::owned(BytesType::GeoJson, stored)
                    }
                    _ => return Err(ValueError::Type.into()),
                }
            }
            _ => return Err(ValueError::Type.into()),
        })
    }

    /// The result of `work`, whose budget lasts as long as the time of the function.
    fn within_time<T>(
        &self,
        work: impl FnOnce(&Budget<'_>) -> Result<T, ResultCode>,
    ) -> Result<T, ResultCode> {
        let may_go_on = || !self.watch.is_over();
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        let done = work(&budget);
        budget.check(done)
    }

    fn container(&self, number: u8, value: &Value) -> Result<Particle<'static>, ParticleError> {
        let packed = self.packed(value, Purpose::Bin)?;
        let particle = self.within_time(|budget| Particle::from_wire(number, &packed, budget));
        match particle.map_err(ParticleError::Result)? {
            Particle::Bytes(kind, bytes) => Ok(Particle::owned(kind, bytes.into_owned())),
            _ => Err(ValueError::Type.into()),
        }
    }
}

/// The particle type of bytes with this type number; plain bytes for an unknown number.
fn blob_type(kind: i64) -> BytesType {
    let known = u8::try_from(kind).ok().and_then(BytesType::from_number);
    match known {
        Some(
            BytesType::String | BytesType::Map | BytesType::List | BytesType::GeoJson | BytesType::Vector,
        )
        | None => BytesType::Blob,
        Some(known) => known,
    }
}
