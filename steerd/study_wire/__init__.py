"""Studies on the wire: what a client asks and what a server answers, to protobuf and back, for both of them.

- `study_text`: texts, and how far a study is
- `encode`: Encode
- `contrast`: ContrastFeatures
- `answers`: CompareAnswers
- `steered_text`: a text with all that steers it
- `attribution`: Attribute
- `logit_lens`, `trace`, `effects`: LogitLens, Trace and MeasureEffects
- `label`: labels of features with their score
- `feature_description`: labels, found features and GetFeature's pages
- `feature_search`: SearchFeatures, NearestFeatures and SearchByTexts
- `evaluate`: EvaluateSteering
- `outputs`: RankOutputs
- `special_tokens`: FindSpecialTokenFeatures
"""
