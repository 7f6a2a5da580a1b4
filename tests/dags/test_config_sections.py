"""What the chart knows of airflow.cfg is what the Airflow that is installed reads."""

from __future__ import annotations

from pathlib import Path

import yaml
from airflow.configuration import conf

FILE = Path(__file__).parents[2] / "charts/trainyard/charts/airflow/files/config-sections.yaml"


def test_the_chart_knows_every_section() -> None:
    known = yaml.safe_load(FILE.read_text())
    renamed = {section for section, _, _ in conf.deprecated_options.values()}
    assert known["image"] == sorted(set(conf.configuration_description) | renamed)
    assert not set(known["image"]) & set(known["providers"])
