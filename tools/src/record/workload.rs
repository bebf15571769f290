//! The order of requests: the `-w` option.

/// A workload. Shares are percentages and need not be whole numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Workload {
    /// Writes every key once, in order.
    Insert,
    /// Removes all bins of every key, in order.
    DeleteBins,
    /// Requests of several kinds on random keys.
    Random(Mix),
    /// Queries.
    Query(Asked),
}

/// The records that a query asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Asked {
    /// The records of this number of partitions.
    Partitions(u16),
    /// The records whose first bin is in a range that contains this percentage of its numbers.
    Range {
        /// Up to 100.
        share_pct: f64,
    },
}

/// Partitions of a namespace.
const PARTITION_COUNT: u16 = 4096;

/// Shares of a random workload. The rest up to 100 are plain updates, or requests of kind `rest`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Mix {
    /// Share of reads.
    pub read_pct: f64,
    /// Share of writes.
    pub write_pct: f64,
    /// The effect of writes on bins that they do not name.
    pub writes: Writes,
    /// The kind of requests that neither read nor write.
    pub rest: Rest,
}

/// The effect of a write on bins that it does not name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// They are kept.
    Update,
    /// They are removed.
    Replace,
}

/// Requests of a mix that neither read nor write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// There are none.
    None,
    /// Deletes.
    Delete,
    /// Calls of a user-defined function.
    Udf,
}

impl Workload {
    /// Parses the text of `-w`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, shares) = text.split_once(',').unwrap_or((text, ""));
        if name == "Q" {
            return partitions(shares);
        }
        let shares = parse_shares(shares)?;
        match name {
            "I" | "DB" if !shares.is_empty() => Err(format!("workload {name} has no percentages")),
            "I" => Ok(Workload::Insert),
            "DB" => Ok(Workload::DeleteBins),
            "RU" => two_kinds(&shares, Writes::Update),
            "RR" => two_kinds(&shares, Writes::Replace),
            "RUD" => three_kinds(name, &shares, Rest::Delete),
            "RUF" => three_kinds(name, &shares, Rest::Udf),
            "QI" => match shares[..] {
                [] => Ok(Workload::Query(Asked::Range { share_pct: 1.0 })),
                [share_pct] => Ok(Workload::Query(Asked::Range { share_pct })),
                _ => Err("QI takes one percentage, that of the numbers in a range".to_owned()),
            },
            _ => Err(format!("\"{text}\" is not a workload; these are: I, RU, RR, RUD, RUF, DB, Q, QI")),
        }
    }

    /// Whether the workload ends by itself.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        matches!(self, Workload::Insert | Workload::DeleteBins)
    }
}

fn partitions(count: &str) -> Result<Workload, String> {
    let count = if count.is_empty() { Ok(1) } else { count.trim().parse() };
    match count {
        Ok(count @ 1..=PARTITION_COUNT) => Ok(Workload::Query(Asked::Partitions(count))),
        _ => Err(format!("Q takes the number of partitions that a query is for, 1 to {PARTITION_COUNT}")),
    }
}

fn two_kinds(shares: &[f64], writes: Writes) -> Result<Workload, String> {
    let read_pct = match shares {
        [] => 50.0,
        [read] => *read,
        _ => return Err("RU and RR take one percentage, that of reads".to_owned()),
    };
    Ok(Workload::Random(Mix { read_pct, write_pct: 100.0 - read_pct, writes, rest: Rest::None }))
}

fn three_kinds(name: &str, shares: &[f64], rest: Rest) -> Result<Workload, String> {
    let (read_pct, write_pct) = match shares {
        [] => (40.0, 40.0),
        [read, write] => (*read, *write),
        _ => return Err(format!("{name} takes two percentages, of reads and of writes")),
    };
    if read_pct + write_pct > 100.0 {
        return Err(format!("{read_pct} and {write_pct} are more than 100 percent"));
    }
    Ok(Workload::Random(Mix { read_pct, write_pct, writes: Writes::Update, rest }))
}

fn parse_shares(text: &str) -> Result<Vec<f64>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|share| match share.trim().parse() {
            Ok(number) if (0.0..=100.0).contains(&number) => Ok(number),
            _ => Err(format!("\"{share}\" is not a percentage from 0 to 100")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(text: &str) -> Mix {
        match Workload::parse(text).unwrap() {
            Workload::Random(mix) => mix,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn the_familiar_workloads_are_read() {
        assert_eq!(Workload::parse("I"), Ok(Workload::Insert));
        assert_eq!(Workload::parse("DB"), Ok(Workload::DeleteBins));
        let update = Mix { read_pct: 80.0, write_pct: 20.0, writes: Writes::Update, rest: Rest::None };
        assert_eq!(mix("RU,80"), update);
        assert_eq!(mix("RU"), Mix { read_pct: 50.0, write_pct: 50.0, ..update });
        assert_eq!(mix("RR,80"), Mix { writes: Writes::Replace, ..update });
        assert_eq!(mix("RUD,20,40.5"), Mix { read_pct: 20.0, write_pct: 40.5, rest: Rest::Delete, ..update });
        assert_eq!(mix("RUF"), Mix { read_pct: 40.0, write_pct: 40.0, rest: Rest::Udf, ..update });
    }

    #[test]
    fn queries_are_for_partitions_or_ranges() {
        let asked = |text| Workload::parse(text).map(|workload| (workload, workload.is_finite()));
        assert_eq!(asked("Q"), Ok((Workload::Query(Asked::Partitions(1)), false)));
        assert_eq!(asked("Q,4096"), Ok((Workload::Query(Asked::Partitions(4096)), false)));
        assert_eq!(asked("QI"), Ok((Workload::Query(Asked::Range { share_pct: 1.0 }), false)));
        assert_eq!(asked("QI,0.1"), Ok((Workload::Query(Asked::Range { share_pct: 0.1 }), false)));
    }

    #[test]
    fn mistakes_are_named() {
        for wrong in [
            "",
            "X",
            "I,5",
            "RU,101",
            "RU,-1",
            "RU,x",
            "RU,1,2",
            "RUD,60,50",
            "RUF,1",
            "Q,0",
            "Q,4097",
            "Q,x",
            "QI,101",
            "QI,1,2",
        ] {
            assert!(Workload::parse(wrong).is_err(), "{wrong}");
        }
    }
}
