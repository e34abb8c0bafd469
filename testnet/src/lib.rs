//! Local networks of real daemons: start, kill, demonstrate, measure.
