"""Create an untrained model that writes vocal and accompaniment (usually one starts from a mixed model instead).

python helpers/model_init_scripts/init_model_dual_track.py ./outputs/untrained-interleaving \
    --text_model google/flan-t5-large --track_pattern interleaving_A_V
"""

from init_model import main

from songgen.tasks import DUAL_TRACK

if __name__ == "__main__":
    main(DUAL_TRACK, default_pattern="interleaving_A_V", description=__doc__)
