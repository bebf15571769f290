//! List, map, bit and HyperLogLog operations on values of every type.
//!
//! Input: family, particle type, length of the bin's value (two bytes), that value in wire form, the operation.

use cf::msgpack::{BLOB, Head, Reader, TEXT};
use datamodel::{Budget, Change, Modified, Particle, bits, cdt, hll};
use proto::ResultCode;

type Read = fn(Option<&Particle<'_>>, &[u8], &Budget<'_>) -> Result<Option<Particle<'static>>, ResultCode>;
type Modify = fn(Option<&Particle<'_>>, &[u8], &Budget<'_>) -> Result<Modified, ResultCode>;

const FAMILIES: [(Read, Modify); 3] =
    [(cdt::read, cdt::modify), (bits::read, bits::modify), (hll::read, hll::modify)];

/// Runs one input as described at the top of this file.
pub fn run(bytes: &[u8]) {
    let Some((&[family, particle_type, high, low], rest)) = bytes.split_first_chunk() else { return };
    let size = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (value, operation) = rest.split_at(size);
    let bin = Particle::from_wire(particle_type, value, &Budget::unlimited()).ok();
    if let Some(bin) = &bin {
        check(bin);
    }
    let (read, modify) = FAMILIES[usize::from(family) % FAMILIES.len()];
    if let Ok(Some(answer)) = read(bin.as_ref(), operation, &Budget::unlimited()) {
        wire(&answer);
    }
    // The operation runs twice, the second time on the result of the first.
    let Ok(Modified { bin: Change::Set(changed), .. }) =
        modify(bin.as_ref(), operation, &Budget::unlimited())
    else {
        return;
    };
    check(&changed);
    if let Ok(Modified { bin: Change::Set(changed), .. }) =
        modify(Some(&changed), operation, &Budget::unlimited())
    {
        check(&changed);
    }
}

/// Checks that the value of a bin can be stored, read back, and written again by the client that received it.
fn check(particle: &Particle<'_>) {
    let mut flat = Vec::new();
    particle.write_flat(&mut flat);
    assert_eq!(flat.len(), particle.flat_size());
    let (stored, rest) = Particle::split_flat(&flat).expect("what was just written");
    assert!(rest.is_empty());
    assert_eq!(wire(&stored), wire(particle));
    if let Particle::Bytes(bytes_type, _) = particle {
        let wire = wire(particle);
        // A context can make a pair with any key, as on the C server.
        assert!(
            Particle::from_wire(*bytes_type as u8, &wire, &Budget::unlimited()).is_ok()
                || has_odd_key(&mut Reader::new(&wire)),
            "a client could not write what it reads"
        );
    }
}

/// Whether the next value contains a pair with a key that a client may not write.
fn has_odd_key(reader: &mut Reader<'_>) -> bool {
    match reader.head() {
        Some(Head::List(count)) => (0..count).any(|_| has_odd_key(reader)),
        Some(Head::Map(count)) => (0..count).any(|position| {
            let is_odd = match reader.head() {
                Some(Head::Unsigned(_) | Head::Negative(_) | Head::Raw([TEXT | BLOB, ..])) => false,
                // The extension that describes the container.
                Some(Head::Extension(_)) => position != 0,
                _ => true,
            };
            is_odd || has_odd_key(reader)
        }),
        Some(_) => false,
        None => true,
    }
}

fn wire(particle: &Particle<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    particle.write_wire(&mut wire);
    wire
}
