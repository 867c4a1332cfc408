"""The menu. It stands inside pages/: with a folder of that name beside the main script, deep links would bypass it."""

import streamlit as st

from pages.shared import account, style

st.set_page_config(page_title="Microtome", page_icon=style.icon(), layout="wide", initial_sidebar_state=272)
style.draw()

page = st.navigation(
    {
        "Look inside": [st.Page("layer_redundancy.py", title="Which blocks does the model not need?", default=True),
                        st.Page("bigram_subnetwork.py", title="Which few weights turn a token into its usual successor?"),
                        st.Page("arithmetic_heads.py", title="Which few heads fetch the operands?"),
                        st.Page("memorization_subspace.py", title="Is what it has by heart kept in one subspace?"),
                        st.Page("memorized_images.py", title="Is what an image generator has by heart kept in few weights?"),
                        st.Page("data_selection.py", title="Which training samples are most like my task?"),
                        st.Page("hash_codes.py", title="Which units does each token switch on?"),
                        st.Page("sae_training.py", title="Which dictionary of features does a site hold?"),
                        st.Page("feature_browser.py", title="What does each SAE feature stand for?"),
                        st.Page("hash_codes_lab.py", title="Does each image get a code of its own?")],
        "Compress": [st.Page("compression.py", title="How small can the model get before it changes?"), st.Page("compression_cost.py", title="What did the compression cost?"),
                     st.Page("sensitivity.py", title="Where did the compression hurt?"), st.Page("compression_skills.py", title="Which skills did the compression take?"),
                     st.Page("chain_search.py", title="Which chain of blocks does the same work?"), st.Page("evopress.py", title="Which matrices can do with less?"),
                     st.Page("feature_survival.py", title="Which features did the compression lose?"),
                     st.Page("compression_report.py", title="What did the compression change inside?")],
        "Align and merge": [st.Page("singular_alignment.py", title="Are two networks the same one with its units renamed?"),
                            st.Page("convergent_learning.py", title="Do two networks learn the same units?"),
                            st.Page("merging.py", title="What does a merge keep of its parents?"),
                            st.Page("alignment_lab.py", title="Are two perceptrons trained apart the same one?")],
        "Checkpoints": [st.Page("checkpoints.py", title="What is in this checkpoint, and can it be trusted?")],
        "Jobs": [st.Page("job_queue.py", title="Queue and history", url_path="jobs")],
        "Help": [st.Page("help.py", title="What this answers, and how")],
    },
    position="top",
)
page.run()
account.draw()
