"""Makes reviews.parquet, the table of classify-table.yaml: `python make_reviews.py [PATH]`."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

REVIEWS = [
    ("Desk lamp", 5, "Bright, quiet and easy to set up."),
    ("Desk lamp", 1, "It stopped working after two days."),
    ("Kettle", 4, "Boils fast. The lid is a little stiff."),
    ("Kettle", 2, "The handle gets too hot to hold."),
    ("Backpack", 5, "Light, and the straps do not cut in."),
    ("Backpack", 3, "Fine for the price."),
    ("Umbrella", 1, "Broke in the first wind."),
    ("Umbrella", 4, "Small enough for a coat pocket."),
]


def table() -> pa.Table:
    """Eight reviews: id, product, stars and text."""
    products, stars, texts = zip(*REVIEWS, strict=True)
    return pa.table(
        {
            "id": pa.array(range(1, len(REVIEWS) + 1), pa.int64()),
            "product": pa.array(products).dictionary_encode(),
            "stars": pa.array(stars, pa.int8()),
            "text": pa.array(texts),
        }
    )


if __name__ == "__main__":
    pq.write_table(table(), sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "reviews.parquet")
