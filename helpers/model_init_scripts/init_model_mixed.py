"""Create an untrained model that writes one mixed track.

python helpers/model_init_scripts/init_model_mixed.py ./outputs/untrained-mixed_pro \
    --text_model google/flan-t5-large --track_pattern mixed_pro
"""

from init_model import main

from songgen.tasks import MIXED

if __name__ == "__main__":
    main(MIXED, default_pattern="mixed_pro", description=__doc__)
