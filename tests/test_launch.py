"""Launch files of clusters that are not here, checked as their own tools check them."""

from __future__ import annotations

import pytest
import yaml

from tests.tiny import ROOT

RAY = ROOT / "launch" / "ray"


@pytest.mark.ray
def test_ray_up_takes_the_cluster_file() -> None:
    """As `ray up` does before it starts anything: the file is completed for its provider, and must
    then fit Ray's published schema, which knows each key."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    tree = yaml.safe_load((RAY / "cluster.yaml").read_text(encoding="utf-8"))
    util.validate_config(util.prepare_config(tree))
    with pytest.raises(Exception, match="head_start_ray_comands"):
        util.validate_config(util.prepare_config({**tree, "head_start_ray_comands": []}))
