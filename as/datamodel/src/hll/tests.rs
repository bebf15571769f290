//! Golden bytes and numbers from the C server, a simple model of registers, and hostile requests.

use std::collections::BTreeMap;

use cf::msgpack::{put_integer, put_raw_header};
use proptest::prelude::*;

use super::*;
use crate::budget::unlimited;

/// The operation, with and without a limit of its budget.
fn read(bin: Option<&Particle<'_>>, payload: &[u8]) -> Result<Option<Particle<'static>>, ResultCode> {
    unlimited(|budget| super::read(bin, payload, budget))
}

/// The operation, with and without a limit of its budget.
fn modify(bin: Option<&Particle<'_>>, payload: &[u8]) -> Result<Modified, ResultCode> {
    unlimited(|budget| super::modify(bin, payload, budget))
}

/// Msgpack of a request.
struct Request(Vec<u8>);

impl Request {
    fn new(code: u8) -> Self {
        Request(vec![0x91, code])
    }

    fn raw(mut self, value: &[u8]) -> Self {
        self.0[0] += 1;
        self.0.extend_from_slice(value);
        self
    }

    fn integer(self, value: i64) -> Self {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, value);
        self.raw(&bytes)
    }

    fn integers(self, values: impl ExactSizeIterator<Item = i64>) -> Self {
        let mut bytes = Vec::new();
        put_list_header(&mut bytes, values.len() as u32);
        values.for_each(|value| put_integer(&mut bytes, value));
        self.raw(&bytes)
    }

    fn sketches(self, sketches: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        put_list_header(&mut bytes, sketches.len() as u32);
        for sketch in sketches {
            put_raw_header(&mut bytes, sketch.len() as u32 + 1);
            bytes.push(18);
            bytes.extend_from_slice(sketch);
        }
        self.raw(&bytes)
    }
}

fn particle(sketch: &[u8]) -> Particle<'static> {
    Particle::owned(BytesType::Hll, sketch.to_vec())
}

/// The sketch after `request`, and the answer to it.
fn modified(
    old: Option<&[u8]>,
    request: &Request,
) -> Result<(Option<Vec<u8>>, Option<Particle<'static>>), ResultCode> {
    let modified = modify(old.map(particle).as_ref(), &request.0)?;
    let new = match modified.bin {
        Change::Unchanged => old.map(<[u8]>::to_vec),
        Change::Set(Particle::Bytes(BytesType::Hll, bytes)) => Some(bytes.into_owned()),
        other => panic!("{other:?}"),
    };
    if let Some(new) = &new {
        assert!(Sketch::parse(new).is_some(), "{new:x?}");
    }
    Ok((new, modified.result))
}

fn sketch_after(old: Option<&[u8]>, request: &Request) -> Vec<u8> {
    modified(old, request).unwrap().0.unwrap()
}

fn answer(sketch: &[u8], request: &Request) -> Result<Particle<'static>, ResultCode> {
    read(Some(&particle(sketch)), &request.0).map(|answer| answer.expect("a sketch answers"))
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn filled(index_bits: i64, minhash_bits: i64, elements: std::ops::Range<i64>) -> Vec<u8> {
    let list = Vec::from_iter(elements).into_iter();
    sketch_after(None, &Request::new(1).integers(list).integer(index_bits).integer(minhash_bits))
}

#[test]
fn registers_are_packed_as_by_the_reference() {
    // 1, -5, "a", a blob, 1.5, true, nil; then 1, "a", "c".
    let first = [0x97, 1, 0xfb, 0xa2, 3, b'a', 0xa2, 4, b'b', 0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 0xc3, 0xc0];
    let second = [0x93, 1, 0xa2, 3, b'a', 0xa2, 3, b'c'];
    for (index_bits, minhash_bits, golden) in [
        (4, 0, "0004000000000000000000006000004042003002000005"),
        (4, 4, "00040400000000000000000006f00000000470442900035000240000000052"),
        (
            5,
            11,
            "00050b000000000000000000000561c00000000000000000000000000000000000000122200000000000002c\
             b100000d0dc0000000000000944c1fe01144000007e680000000000000000000000000",
        ),
        (
            4,
            51,
            "0004330000000000000000000000000000000d90ce17b0ca1bc0000000000000000000000000000000000000\
             000000856b860310289c19cb92106e9fc21141206857528900000000000000060b3d8aa4abcd400000000000\
             00016f07c5af54444000000000000000000000000000000000000000000028947b00dc1962",
        ),
    ] {
        let empty = sketch_after(None, &Request::new(0).integer(index_bits).integer(minhash_bits));
        let (sketch, added) = modified(Some(&empty), &Request::new(1).raw(&first)).unwrap();
        assert_eq!(added, Some(Particle::Integer(7)));
        let (sketch, added) = modified(sketch.as_deref(), &Request::new(1).raw(&second)).unwrap();
        assert_eq!(added, Some(Particle::Integer(1)));
        let sketch = sketch.unwrap();
        assert_eq!(sketch, hex(golden), "{index_bits} {minhash_bits}");
        assert_eq!(answer(&sketch, &Request::new(50)), Ok(Particle::Integer(9)));
        let (refreshed, count) = modified(Some(&sketch), &Request::new(3)).unwrap();
        assert_eq!(count, Some(Particle::Integer(9)));
        assert_eq!(refreshed.unwrap()[3..11], [9, 0, 0, 0, 0, 0, 0, 0]);
        let shape = vec![0x92, index_bits as u8, minhash_bits as u8];
        assert_eq!(answer(&sketch, &Request::new(55)), Ok(Particle::owned(BytesType::List, shape)));
        assert_eq!(answer(&sketch, &Request::new(56).raw(&second)), Ok(Particle::Integer(1)));
    }
}

#[test]
fn estimates_are_those_of_the_reference() {
    // Index and minhash bits, elements; counts of the three sets; union, intersection and similarity of two and three.
    type Numbers = (i64, i64, i64, [i64; 3], [i64; 2], [i64; 2], [u64; 2]);
    let cases: [Numbers; 5] = [
        (
            8,
            0,
            1000,
            [0x40d, 0x424, 0x3f0],
            [0x61f; 2],
            [0x212, 0x1f0],
            [0x3fd5_a57e_48dc_e025, 0x3fd4_4200_53a5_2aa4],
        ),
        (
            12,
            0,
            50_000,
            [0xc4db, 0xc2c1, 0xc31f],
            [0x12556; 2],
            [0x6246, 0x6370],
            [0x3fd5_70f8_2dfb_3daf, 0x3fd5_b1fc_afb7_7487],
        ),
        (
            10,
            8,
            3000,
            [0xb89, 0xb50, 0xb64],
            [0x10f2; 2],
            [0x5f0, 0x5ef],
            [0x3fd6_6e36_0666_18a0, 0x3fd6_68d4_b346_a59a],
        ),
        (
            14,
            13,
            40_000,
            [0x9aad, 0x9c23, 0x9cad],
            [0xea2f; 2],
            [0x4dcd, 0x4dcf],
            [0x3fd5_4335_65b2_9289, 0x3fd5_438b_41e0_500d],
        ),
        (
            16,
            0,
            30_000,
            [0x74b5, 0x7594, 0x74c2],
            [0xaf5d; 2],
            [0x3aec, 0x3ab8],
            [0x3fd5_8101_a8cf_3ff1, 0x3fd5_6e07_5b2d_2b4a],
        ),
    ];
    for (index_bits, minhash_bits, count, counts, unions, intersections, similarities) in cases {
        let [a, b, c] =
            [0, count / 2, count / 4].map(|from| filled(index_bits, minhash_bits, from..from + count));
        for (sketch, count) in [&a, &b, &c].into_iter().zip(counts) {
            assert_eq!(answer(sketch, &Request::new(50)), Ok(Particle::Integer(count)));
        }
        for (at, others) in [&[&b[..]][..], &[&b, &c]].into_iter().enumerate() {
            let ask = |code| answer(&a, &Request::new(code).sketches(others));
            assert_eq!(ask(52), Ok(Particle::Integer(unions[at])));
            assert_eq!(ask(53), Ok(Particle::Integer(intersections[at])));
            assert_eq!(ask(54), Ok(Particle::Float(f64::from_bits(similarities[at]))));
        }
    }
}

#[test]
fn flags_and_shapes_determine_the_allowed_operations() {
    let small = filled(4, 0, 0..5);
    let large = filled(6, 8, 0..5);
    let code = |old: Option<&[u8]>, request: Request| modified(old, &request).map(|_| ()).err();
    use ResultCode::{BinExists, BinNotFound, IncompatibleType, OpNotApplicable, Parameter, Unknown};

    assert_eq!(code(Some(&small), Request::new(0).integer(4).integer(0).integer(1)), Some(BinExists));
    assert_eq!(code(Some(&small), Request::new(0).integer(4).integer(0).integer(5)), None);
    assert_eq!(code(None, Request::new(0).integer(4).integer(0).integer(2)), Some(BinNotFound));
    assert_eq!(code(None, Request::new(0).integer(4).integer(0).integer(6)), None);
    assert_eq!(code(None, Request::new(0).integer(4).integer(0).integer(3)), Some(Parameter));
    assert_eq!(code(None, Request::new(0)), Some(OpNotApplicable));
    assert_eq!(code(None, Request::new(0).integer(-1).integer(4)), Some(OpNotApplicable));
    assert_eq!(code(None, Request::new(0).integer(16).integer(51)), Some(Parameter));
    assert_eq!(
        code(Some(&filled(16, 0, 0..1)), Request::new(0).integer(-1).integer(51)),
        Some(OpNotApplicable)
    );
    assert_eq!(
        sketch_after(Some(&large), &Request::new(0)),
        sketch::empty(SketchShape { index_bits: 6, minhash_bits: 8 })
    );

    assert_eq!(code(None, Request::new(3)), Some(BinNotFound));
    assert_eq!(code(None, Request::new(4).integer(4)), Some(BinNotFound));
    assert_eq!(code(Some(&large), Request::new(4).integer(4)), Some(OpNotApplicable));
    assert_eq!(code(Some(&small), Request::new(4).integer(5)), Some(OpNotApplicable));
    assert_eq!(code(Some(&small), Request::new(4).integer(4)), None);
    assert_eq!(sketch_after(Some(&filled(9, 0, 0..99)), &Request::new(4).integer(4)), filled(4, 0, 0..99));

    assert_eq!(code(Some(&large), Request::new(2).sketches(&[&small])), Some(OpNotApplicable));
    assert_eq!(sketch_after(Some(&large), &Request::new(2).sketches(&[&small]).integer(8)), small);
    assert_eq!(sketch_after(Some(&small), &Request::new(2).sketches(&[&large])), small);
    assert_eq!(sketch_after(None, &Request::new(2).sketches(&[&large])), large);
    let three = Request::new(53).sketches(&[&large, &large, &large]);
    assert_eq!(answer(&small, &three), Err(OpNotApplicable));
    assert_eq!(answer(&large, &three), Ok(Particle::Integer(5)));
    assert_eq!(answer(&small, &Request::new(53).sketches(&[&small, &small, &small])), Err(Parameter));

    let request = Request::new(1).raw(&[0x91, 0x90]);
    assert_eq!(code(Some(&small), request), Some(Parameter), "no lists in sets");
    assert_eq!(modify(Some(&Particle::Integer(1)), &[0x91, 99]), Err(Parameter), "first the code");
    assert_eq!(modify(Some(&Particle::Integer(1)), &[0x92, 3, 0]), Err(IncompatibleType), "then the bin");
    assert_eq!(modify(Some(&particle(&small[1..])), &[0x92, 3, 0]), Err(Unknown));
    assert_eq!(read(None, &[0xc0]), Ok(None));
}

#[test]
fn only_sketches_are_written() {
    let sketch = filled(4, 4, 0..9);
    assert_eq!(check_wire(&sketch), Ok(()));
    for damaged in [&[][..], &[0, 4], &sketch[1..], &sketch[..sketch.len() - 1]] {
        assert_eq!(check_wire(damaged), Err(ResultCode::Parameter));
    }
    for (at, value) in [(0, 1), (1, 3), (1, 17), (2, 3), (2, 52)] {
        let mut damaged = sketch.clone();
        damaged[at] = value;
        assert_eq!(check_wire(&damaged), Err(ResultCode::Parameter));
    }
    let too_wide = sketch::empty(SketchShape { index_bits: 16, minhash_bits: 51 });
    assert_eq!(check_wire(&too_wide), Err(ResultCode::Parameter));
    let made = sketch_after(None, &Request::new(2).sketches(&[&too_wide]));
    assert_eq!(answer(&made, &Request::new(50)), Err(ResultCode::Unknown), "as the reference does");
}

#[test]
fn sketches_with_wrong_counts_still_give_numbers() {
    let mut full = sketch::empty(SketchShape { index_bits: 4, minhash_bits: 0 });
    full[11..].fill(0xff);
    assert_eq!(answer(&full, &Request::new(50)), Ok(Particle::Integer(i64::MIN)));
    let mut lying = sketch::empty(SketchShape { index_bits: 4, minhash_bits: 0 });
    lying[3..11].fill(0xff);
    assert_eq!(answer(&lying, &Request::new(50)), Ok(Particle::Integer(-1)));
    let three = Request::new(53).sketches(&[&lying, &lying]);
    assert_eq!(answer(&lying, &three), Ok(Particle::Integer(0)));
    let empty = sketch::empty(SketchShape { index_bits: 4, minhash_bits: 0 });
    let similarity = |sketch: &[u8]| match answer(sketch, &Request::new(54).sketches(&[sketch])) {
        Ok(Particle::Float(value)) => value.to_bits(),
        other => panic!("{other:?}"),
    };
    assert_eq!(similarity(&empty), 0xfff8_0000_0000_0000);
    assert_eq!(
        similarity(&sketch::empty(SketchShape { index_bits: 4, minhash_bits: 4 })),
        0x7ff8_0000_0000_0000
    );
}

/// Registers by number, without empty ones.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    shape: SketchShape,
    registers: BTreeMap<usize, u64>,
}

impl Model {
    fn new(index_bits: u8, minhash_bits: u8, elements: &[i64]) -> Self {
        let shape = SketchShape { index_bits, minhash_bits };
        let mut model = Model { shape, registers: BTreeMap::new() };
        elements.iter().for_each(|&element| model.add(element));
        model
    }

    fn trace(&self, element: i64) -> (usize, u64) {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, element);
        let [place, rank] = hash::murmur3(&bytes).map(|half| format!("{half:064b}"));
        let (place, index) = place.split_at(64 - usize::from(self.shape.index_bits));
        let minhash = &place[place.len() - usize::from(self.shape.minhash_bits)..];
        let rank = rank.len() - rank.trim_end_matches('0').len() + 1;
        let trace = u64::from_str_radix(&format!("{rank:b}{minhash}"), 2).unwrap();
        (usize::from_str_radix(index, 2).unwrap(), trace)
    }

    fn put(&mut self, index: usize, trace: u64) {
        let slot = self.registers.entry(index).or_default();
        *slot = trace.max(*slot);
    }

    fn add(&mut self, element: i64) {
        let (index, trace) = self.trace(element);
        self.put(index, trace);
    }

    fn contains(&self, element: i64) -> bool {
        let (index, trace) = self.trace(element);
        self.registers.get(&index).is_some_and(|&register| register >= trace)
    }

    fn brought_to(&self, shape: SketchShape) -> Self {
        let mut model = Model { shape, registers: BTreeMap::new() };
        let keep =
            |value: u64| if shape.minhash_bits == 0 { value >> self.shape.minhash_bits } else { value };
        self.registers
            .iter()
            .for_each(|(index, value)| model.put(index % (1 << shape.index_bits), keep(*value)));
        model
    }

    fn union(models: &[&Self]) -> Self {
        let index_bits = models.iter().map(|model| model.shape.index_bits).min().unwrap();
        let minhash_bits = models[0].shape.minhash_bits;
        let same = models.iter().all(|model| model.shape.minhash_bits == minhash_bits);
        let shape = SketchShape { index_bits, minhash_bits: if same { minhash_bits } else { 0 } };
        let mut union = Model { shape, registers: BTreeMap::new() };
        for model in models {
            model.brought_to(shape).registers.iter().for_each(|(&index, &value)| union.put(index, value));
        }
        union
    }

    fn bytes(&self) -> Vec<u8> {
        let width = 6 + usize::from(self.shape.minhash_bits);
        let digits: String = (0..1usize << self.shape.index_bits)
            .map(|index| format!("{:0width$b}", self.registers.get(&index).copied().unwrap_or(0)))
            .collect();
        let mut bytes = vec![0, self.shape.index_bits, self.shape.minhash_bits, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(
            digits
                .as_bytes()
                .chunks(8)
                .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()),
        );
        bytes
    }
}

fn models() -> impl Strategy<Value = Model> {
    let minhash_bits = prop_oneof![3 => Just(0u8), 2 => Just(8), 1 => 4..=51u8];
    let elements = prop::collection::vec(-30..200i64, 0..60);
    (4..=9u8, minhash_bits, elements)
        .prop_map(|(index_bits, minhash_bits, elements)| Model::new(index_bits, minhash_bits, &elements))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn operations_agree_with_a_model_of_plain_registers(
        model in models(), others in prop::collection::vec(models(), 1..4), elements in prop::collection::vec(-30..200i64, 1..40), fold in 4..=9u8,
    ) {
        let bytes = model.bytes();
        let (filled, added) = modified(Some(&bytes), &Request::new(1).integers(elements.clone().into_iter())).unwrap();
        let mut larger = model.clone();
        let mut count = 0;
        for &element in &elements {
            count += i64::from(!larger.contains(element));
            larger.add(element);
        }
        prop_assert_eq!(filled.unwrap(), larger.bytes());
        prop_assert_eq!(added, Some(Particle::Integer(count)));
        let contains = elements.iter().all(|&element| model.contains(element));
        let asked = answer(&bytes, &Request::new(56).integers(elements.into_iter()));
        prop_assert_eq!(asked, Ok(Particle::Integer(contains.into())));

        let packed: Vec<Vec<u8>> = others.iter().map(Model::bytes).collect();
        let packed: Vec<&[u8]> = packed.iter().map(Vec::as_slice).collect();
        let union = Model::union(&others.iter().chain([&model]).collect::<Vec<_>>());
        prop_assert_eq!(answer(&bytes, &Request::new(51).sketches(&packed)), Ok(particle(&union.bytes())));
        let folding = modified(Some(&bytes), &Request::new(2).sketches(&packed).integer(8)).unwrap().0;
        prop_assert_eq!(folding, Some(union.bytes()));
        let strict = modified(Some(&bytes), &Request::new(2).sketches(&packed)).map(|(sketch, _)| sketch);
        let expected = if union.shape == model.shape { Ok(Some(union.bytes())) } else { Err(ResultCode::OpNotApplicable) };
        prop_assert_eq!(strict, expected);
        let count = answer(&union.bytes(), &Request::new(50));
        prop_assert_eq!(answer(&bytes, &Request::new(52).sketches(&packed)), count);

        let folded = modified(Some(&bytes), &Request::new(4).integer(fold.into())).map(|(sketch, _)| sketch);
        if model.shape.minhash_bits != 0 || fold > model.shape.index_bits {
            prop_assert_eq!(folded, Err(ResultCode::OpNotApplicable));
        } else {
            prop_assert_eq!(folded, Ok(Some(model.brought_to(SketchShape { index_bits: fold, minhash_bits: 0 }).bytes())));
        }
    }

    #[test]
    fn any_payload_on_any_registers_is_answered(
        payload in prop::collection::vec(prop_oneof![0..16u8, any::<u8>()], 0..24), count in 0..6u8, code in prop_oneof![0..5u8, 50..57u8],
        models in prop::collection::vec(models(), 1..4), noise: Vec<u8>,
    ) {
        let mut sketches: Vec<Vec<u8>> = models.iter().map(Model::bytes).collect();
        for sketch in &mut sketches {
            sketch[3..].iter_mut().zip(&noise).for_each(|(to, from)| *to = *from);
        }
        let list = [&[0x90 | count, code], &payload[..]].concat();
        let given = Request::new(code).sketches(&sketches.iter().map(Vec::as_slice).collect::<Vec<_>>()).0;
        for payload in [&payload, &list, &given] {
            for particle in [particle(&sketches[0]), particle(&noise)] {
                let _ = read(Some(&particle), payload);
                let _ = modify(Some(&particle), payload);
            }
            let _ = modify(None, payload);
        }
    }
}
