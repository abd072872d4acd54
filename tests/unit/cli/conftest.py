"""Small models that generate songs from the command line."""

import pytest
from complete_model import write_complete_model


@pytest.fixture(scope="module", params=["mixed", "interleaving_A_V"])
def model_folder(request, tmp_path_factory):
    return write_complete_model(tmp_path_factory.mktemp(request.param), request.param)
