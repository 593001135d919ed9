//! Dates as chat templates print them: `strftime` for the directives that such templates use.
//!
//! It is here because a template may ask for today's date, and a run that is resumed tomorrow must see the same text:
//! the moment is therefore given, not asked of a clock.

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Formats a moment, in seconds since 1970 in universal time; an unknown directive is the error.
pub(super) fn format(seconds: i64, pattern: &str) -> Result<String, String> {
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    // 1970 began on a Thursday, the first of the table.
    let weekday = DAYS[days.rem_euclid(7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut text = String::new();
    let mut pattern = pattern.chars();
    while let Some(c) = pattern.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        text += &match pattern.next() {
            Some('Y') => format!("{year}"),
            Some('y') => format!("{:02}", year.rem_euclid(100)),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday[..3].to_string(),
            Some('j') => format!("{:03}", days - first_day(year) + 1),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_string(),
            Some('%') => "%".to_string(),
            other => return Err(format!("strftime_now does not know %{}", other.map_or(String::new(), String::from))),
        };
    }
    Ok(text)
}

/// Days from 1970 to the first of a year's January, by the Gregorian rule.
fn first_day(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 477
}

/// Year, month and day of a day counted from 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    // 146,097 days are 400 years exactly; the guess is off by one at most.
    let guess = 1970 + (days * 400).div_euclid(146_097);
    let year = (guess - 1..=guess + 1).rev().find(|year| first_day(*year) <= days).unwrap_or(guess);
    let leap = i64::from(first_day(year + 1) - first_day(year) == 366);
    let lengths = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let (mut month, mut day) = (1, days - first_day(year) + 1);
    for length in lengths {
        if day <= length {
            break;
        }
        (month, day) = (month + 1, day - length);
    }
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_python_s() {
        // datetime.fromtimestamp(t, UTC).strftime(...)
        let all = "%A %a %d %B %b %m %y %Y %H:%M:%S %I %p %j %%";
        for (seconds, expected) in [
            (0, "Thursday Thu 01 January Jan 01 70 1970 00:00:00 12 AM 001 %"),
            (951_826_215, "Tuesday Tue 29 February Feb 02 00 2000 12:10:15 12 PM 060 %"),
            (1_721_999_999, "Friday Fri 26 July Jul 07 24 2024 13:19:59 01 PM 208 %"),
            (4_107_542_399, "Sunday Sun 28 February Feb 02 00 2100 23:59:59 11 PM 059 %"),
            (-1, "Wednesday Wed 31 December Dec 12 69 1969 23:59:59 11 PM 365 %"),
        ] {
            assert_eq!(format(seconds, all).unwrap(), expected);
        }
        assert!(format(0, "%Q").unwrap_err().contains("%Q"));
        assert!(format(0, "%").is_err());
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut before = civil(-141_000);
        for days in -140_999..=141_000 {
            let (year, month, day) = civil(days);
            let follows = (year, month, day) == (before.0, before.1, before.2 + 1)
                || (day == 1 && (year, month) == (before.0, before.1 + 1) && before.2 >= 28)
                || (day == 1 && month == 1 && year == before.0 + 1 && (before.1, before.2) == (12, 31));
            assert!(follows, "{days}: {before:?} then {year} {month} {day}");
            before = (year, month, day);
        }
    }
}
