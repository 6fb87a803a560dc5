// SPDX-License-Identifier: MIT OR Apache-2.0

//! The measurement as a picture: both matrices, and bandwidth by working set.

use std::path::Path;

use anyhow::{Result, anyhow};
use dmaplane_kv::atomic_file;
use dmaplane_observe::numa::{Cell, Matrix};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::output;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels.
const WIDTH: u32 = 1200;
const HEIGHT: u32 = 960;
const MATRICES: u32 = 460;
const NOTE: u32 = 36;

/// Writes the picture; `note` says how meaningful it is.
pub(super) fn write(path: &Path, matrix: &Matrix, note: &str) -> Result<()> {
    let mut picture = String::new();
    draw(&mut picture, matrix, note).map_err(|why| anyhow!("cannot draw: {why}"))?;
    Ok(atomic_file::write(path, picture.as_bytes())?)
}

fn draw(
    picture: &mut String,
    matrix: &Matrix,
    note: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(picture, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (body, foot) = root.split_vertically(HEIGHT - NOTE);
    let (matrices, lines) = body.split_vertically(MATRICES);
    let (left, right) = matrices.split_horizontally(WIDTH / 2);
    let size = output::bytes(matrix.headline_bytes);
    let rate = |cell: &Cell| cell.headline() / 1e9;
    heat(
        &left,
        matrix,
        &format!("Copy bandwidth, {size}, GB/s"),
        rate,
    )?;
    heat(&right, matrix, &format!("Latency, {size}, ns"), |cell| {
        cell.latency_ns
    })?;
    curves(&lines, matrix)?;
    foot.draw(&Text::new(note.to_owned(), (20, 8), ("sans-serif", 16)))?;
    root.present()?;
    Ok(())
}

/// Rows are the processors' nodes, columns the memory's.
fn heat(
    area: &Area<'_>,
    matrix: &Matrix,
    title: &str,
    value: impl Fn(&Cell) -> f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = area.titled(title, ("sans-serif", 22))?;
    let ids = |of: fn(&Cell) -> u32| {
        let mut ids: Vec<u32> = matrix.cells.iter().map(of).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let (rows, columns) = (ids(|cell| cell.cpu_node), ids(|cell| cell.memory_node));
    let most = matrix.cells.iter().map(&value).fold(0.0, f64::max);
    let (width, height) = area.dim_in_pixel();
    let step = |pixels: u32, count: usize| (pixels as i32 - 120) / (count.max(1) as i32);
    let (dx, dy) = (step(width, columns.len()), step(height, rows.len()));
    let text = ("sans-serif", 16);
    for (row, cpu) in rows.iter().enumerate() {
        let y = 40 + row as i32 * dy;
        area.draw(&Text::new(format!("CPUs {cpu}"), (10, y + dy / 2), text))?;
        for (column, memory) in columns.iter().enumerate() {
            let x = 90 + column as i32 * dx;
            if row == 0 {
                area.draw(&Text::new(format!("memory {memory}"), (x + 4, 16), text))?;
            }
            let Some(cell) = matrix.cell(*cpu, *memory) else {
                continue;
            };
            let value = value(cell);
            let shade = if most > 0.0 { value / most } else { 0.0 };
            let corners = [(x, y), (x + dx - 4, y + dy - 4)];
            let color = HSLColor(0.58, 0.65, 0.95 - 0.45 * shade);
            area.draw(&Rectangle::new(corners, color.filled()))?;
            let place = (x + dx / 2 - 24, y + dy / 2 - 8);
            area.draw(&Text::new(format!("{value:.2}"), place, text))?;
        }
    }
    Ok(())
}

/// Bandwidth of each cell by working set.
fn curves(area: &Area<'_>, matrix: &Matrix) -> Result<(), Box<dyn std::error::Error>> {
    let first = matrix.sizes.first().copied().unwrap_or(1) as f64;
    let last = matrix.sizes.last().copied().unwrap_or(2) as f64;
    let rates = matrix.cells.iter().flat_map(|cell| &cell.bytes_per_second);
    let most = rates.copied().fold(1.0, f64::max) / 1e9;
    let mut chart = ChartBuilder::on(area)
        .caption("Copy bandwidth by working set", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((first..last.max(2.0 * first)).log_scale(), 0.0..1.1 * most)?;
    chart
        .configure_mesh()
        .x_desc("bytes")
        .y_desc("GB/s")
        .x_label_formatter(&|bytes| output::bytes(*bytes as u64))
        .draw()?;
    for (index, cell) in matrix.cells.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let rates = cell.bytes_per_second.iter();
        let points = matrix.sizes.iter().zip(rates);
        let points = points.map(|(bytes, rate)| (*bytes as f64, rate / 1e9));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(format!(
                "CPUs {}, memory {}",
                cell.cpu_node, cell.memory_node
            ))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numa::tests::matrix;

    #[test]
    fn the_picture_has_every_cell() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plot.svg");
        write(&path, &matrix(), "a note").expect("a picture");
        let text = std::fs::read_to_string(&path).expect("the picture");
        for want in ["<svg", "CPUs 1, memory 0", "a note", "4.00", "memory 1"] {
            assert!(text.contains(want), "{want} is not in the picture");
        }
    }
}
